"""A worker with vLLM that is process 1 itself, with nothing that passes signals on or buries its children."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from rollstream import Client, GenerationConfig
from tests.support.faults import Queue
from tests.support.processes.process_one import ProcessOne
from tests.support.worker_process import wait_for

pytestmark = [pytest.mark.large, pytest.mark.vllm, pytest.mark.timeout(400)]
START_S = 300
LONG = GenerationConfig(max_new_tokens=400, ignore_eos=True)
SHORT = GenerationConfig(max_new_tokens=8, ignore_eos=True)


@pytest.fixture
def worker(tmp_path: Path, redis_url: str, policy: str, tiny_model: Path) -> ProcessOne:
    settings = (
        "--policy", policy, "--redis", redis_url, "--model", str(tiny_model), "--dtype", "float32",
        "--max-num-seqs", "16", "--log-format", "console", "--log-level", "debug",
    )  # fmt: skip
    return ProcessOne([sys.executable, "-m", "rollstream.worker", *settings], tmp_path / "log")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_while_its_engine_loads_and_nothing_is_left(worker: ProcessOne, number: signal.Signals) -> None:
    with worker:
        worker.wait_until_one_is_named("VLLM::Engine", START_S)
        worker.send(number)

        assert worker.wait(20) == 128 + number
        assert worker.members() == {}


def test_it_drains_without_a_zombie(worker: ProcessOne, redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client, worker:
        worker.wait_until_it_says("serving  ", START_S)
        assert len(list(client.submit([[5, 6]] * 4, None, SHORT).groups(timeout=60))) == 4
        assert [pid for pid, state in worker.members().items() if state == "Z"] == []
        worker.send(signal.SIGTERM)

        assert worker.wait(60) == 0
        assert worker.members() == {}


def test_a_second_signal_ends_the_engine_too(worker: ProcessOne, redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client, worker, Queue(redis_url, policy) as queue:
        worker.wait_until_it_says("serving  ", START_S)
        client.submit([[5, 6]] * 200, None, LONG)
        wait_for(lambda: bool(queue.holders()), 60, lambda: worker.log)
        worker.send(signal.SIGTERM)
        worker.wait_until_it_says("draining")
        worker.send(signal.SIGTERM)

        assert worker.wait(20) == 128 + signal.SIGTERM
        assert worker.members() == {}
