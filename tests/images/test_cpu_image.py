"""vLLM in the CPU image as a container: without rights it serves, swaps, drains, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.tiny_model import write_model
from rollstream.producer.demo.worker_process import SMALL_MODEL_ENV
from tests.images.container import Image, mounted, started
from tests.support.faults import Queue
from tests.support.processes.process_one import ProcessOne
from tests.support.weights.versions import write_steps
from tests.support.worker_process import wait_for

pytestmark = [pytest.mark.large, pytest.mark.vllm, pytest.mark.timeout(600)]
SETTINGS = (
    "--engine", "vllm", "--model", "/model", "--checkpoint-dir", "/checkpoints", "--dtype", "float32",
    "--max-num-seqs", "16", "--heartbeat-s", "0.5", "--log-format", "console", "--log-level", "debug",
)  # fmt: skip
SHORT = GenerationConfig(max_new_tokens=8, ignore_eos=True)
LONG = GenerationConfig(max_new_tokens=400, ignore_eos=True)
START_S = 300


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with mounted("cpu") as image:
        yield image


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model and a checkpoint, which the image's user may read."""
    root = tmp_path_factory.mktemp("served")
    write_model(root / "model")
    write_steps(root / "checkpoints", 1)
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return {"/model": root / "model", "/checkpoints": root / "checkpoints"}


@pytest.fixture
def container(tmp_path: Path, image: Image, folders: dict[str, Path], redis_url: str, policy: str) -> ProcessOne:
    args = ["--policy", policy, "--redis", redis_url, *SETTINGS]
    return started(image, args, tmp_path / "log", env=SMALL_MODEL_ENV, volumes=folders)


def zombies(container: ProcessOne) -> list[int]:
    return [pid for pid, state in container.members().items() if state == "Z"]


def ended(container: ProcessOne, within_s: float) -> int:
    """The exit code; nothing of the container is left."""
    began = time.monotonic()
    code = container.wait(within_s)
    print(f"exit code {code} after {time.monotonic() - began:.2f} s")  # noqa: T201 - a figure
    assert container.members() == {}
    return code


def test_it_serves_swaps_and_drains(
    container: ProcessOne, folders: dict[str, Path], redis_url: str, policy: str
) -> None:
    with Client(redis_url, policy=policy) as client, container:
        container.wait_until_it_says("serving  ", START_S)
        assert len(list(client.submit([[5, 6]] * 4, None, SHORT).groups(timeout=60))) == 4
        client.publish_policy(1, checkpoint=folders["/checkpoints"] / "step-1")
        client.wait_for_version(1, timeout=120)
        rollouts = client.generate([[5, 6]] * 4, None, SHORT)

        assert set(rollouts.version_spans) == {((1, SHORT.max_new_tokens),)}
        assert zombies(container) == []
        container.send(signal.SIGTERM)
        assert ended(container, 60) == 0
        assert "Traceback" not in container.log
        assert "Read-only file system" not in container.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_while_its_engine_loads(container: ProcessOne, number: signal.Signals) -> None:
    with container:
        container.wait_until_one_is_named("VLLM::Engine", START_S)
        container.send(number)

        assert ended(container, 20) == 128 + number


def test_it_ends_while_vllm_is_imported(container: ProcessOne) -> None:
    with container:
        container.wait_until_it_says("starting")
        container.send(signal.SIGTERM)

        assert ended(container, 20) == 128 + signal.SIGTERM


def test_a_second_signal_ends_a_drain_and_the_engine(container: ProcessOne, redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client, container, Queue(redis_url, policy) as queue:
        container.wait_until_it_says("serving  ", START_S)
        client.submit([[5, 6]] * 200, None, LONG)
        wait_for(lambda: bool(queue.holders()), 60, lambda: container.log)
        container.send(signal.SIGTERM)
        container.wait_until_it_says("draining")
        container.send(signal.SIGTERM)

        assert ended(container, 20) == 128 + signal.SIGTERM


def test_the_code_of_a_dead_engine_comes_through_process_1(container: ProcessOne) -> None:
    with container:
        container.wait_until_it_says("serving  ", START_S)
        (core,) = container.named("VLLM::Engine")
        os.kill(core, signal.SIGKILL)

        assert ended(container, 30) == 3
