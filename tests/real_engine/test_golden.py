"""Golden jobs of a real worker: a second start reproduces them, one whose weights or numbers are others does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.support.command_line import Command
from tests.support.engine.real_workers import REAL_POLICY, START_TIMEOUT_S, RealWorkers
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def file(redis_url: str, real_workers: RealWorkers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded from the workers that other tests share."""
    real_workers.serving()
    path = tmp_path_factory.mktemp("golden") / "tiny.golden"
    recorded = Command(redis_url, REAL_POLICY)("golden", "record", "--out", str(path), "--timeout", "60")
    assert recorded.exit_code == 0, recorded.output
    return path


@pytest.fixture(scope="module")
def perturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the model's name in which one tensor of the last layer is a little larger."""
    folder = tmp_path_factory.mktemp("perturbed") / tiny_model.name
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


FLAGS = ("--dtype", "float32", "--max-num-seqs", "16")


@pytest.fixture(scope="module")
def started(redis_url: str, file: Path, tiny_model: Path) -> Iterator[WorkerProcess]:
    """A second worker of the model, with the golden jobs."""
    worker = WorkerProcess(redis_url, "golden-same", "--model", str(tiny_model), *FLAGS, "--golden", str(file))
    yield worker
    worker.end()


def test_the_same_model_started_again_reproduces_them_and_serves(started: WorkerProcess) -> None:
    started.wait_until_serving(START_TIMEOUT_S)

    assert "golden reproduced" in started.log
    assert "completions=24" in started.log


@pytest.mark.large
def test_a_layer_that_is_a_little_larger_is_refused_by_name_with_exit_2(
    redis_url: str, file: Path, perturbed: Path
) -> None:
    worker = WorkerProcess(redis_url, "golden-perturbed", "--model", str(perturbed), *FLAGS, "--golden", str(file))

    assert worker.process.wait(START_TIMEOUT_S) == 2

    told = next(line for line in worker.log.splitlines() if line.startswith("rollstream-worker: "))
    assert "--golden" in told
    assert "case " in told
    assert "nats apart" in told
    assert "recorded with vllm" in told


def test_a_check_through_the_queue_finds_the_same_tokens_and_log_probs(
    redis_url: str, started: WorkerProcess, file: Path
) -> None:
    started.wait_until_serving(START_TIMEOUT_S)

    found = Command(redis_url, "golden-same")("golden", "check", str(file), "--json", "--timeout", "60")

    told = json.loads(found.stdout)
    assert (found.exit_code, told["problem"]) == (0, "")
    assert {one["outcome"] for one in told["completions"]} == {"equal"}
    assert max(one["largest"] for one in told["completions"]) < 1e-3
