"""A worker that is process 1 of a container, where the kernel drops each signal that nobody handles."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rollstream import Client, GenerationConfig
from tests.support.faults import Queue
from tests.support.processes.process_one import ProcessOne
from tests.support.worker_process import wait_for

NOBODY = "redis://127.0.0.1:1/0"
AT_ONCE_S = 10.0
"""What a busy machine may need for what takes a quarter of a second."""
SLOW = ("--stub-tokens-per-s", "20")
LONG = GenerationConfig(max_new_tokens=4000, ignore_eos=True)
SHORT = GenerationConfig(max_new_tokens=8, ignore_eos=True)


@contextmanager
def stub_worker(folder: Path, redis_url: str, policy: str, *flags: str) -> Iterator[ProcessOne]:
    settings = ("--policy", policy, "--redis", redis_url, "--engine", "stub", "--heartbeat-s", "0.2", *flags)
    command = [sys.executable, "-m", "rollstream.worker", *settings, "--log-format", "console", "--log-level", "debug"]
    with ProcessOne(command, folder / "log") as worker:
        yield worker


def wait_until_taken(redis_url: str, policy: str, worker: ProcessOne) -> None:
    with Queue(redis_url, policy) as queue:
        wait_for(lambda: bool(queue.holders()), 60, lambda: worker.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_while_it_still_imports(tmp_path: Path, number: signal.Signals) -> None:
    with stub_worker(tmp_path, NOBODY, "p") as worker:
        worker.wait_until_it_catches(signal.SIGTERM)  # Python itself begins with a handler for the other
        worker.send(number)

        assert worker.wait(AT_ONCE_S) == 128 + number
        assert worker.log == ""


def test_it_ends_before_its_redis_answers(tmp_path: Path) -> None:
    with stub_worker(tmp_path, NOBODY, "p") as worker:
        worker.wait_until_it_says("trying again")
        worker.send(signal.SIGTERM)

        assert worker.wait(AT_ONCE_S) == 128 + signal.SIGTERM
        assert "Traceback" not in worker.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_what_it_took_and_drains(
    tmp_path: Path, redis_url: str, policy: str, number: signal.Signals
) -> None:
    with Client(redis_url, policy=policy) as client, stub_worker(tmp_path, redis_url, policy, *SLOW) as worker:
        batch = client.submit([[5, 6]] * 4, None, SHORT)
        wait_until_taken(redis_url, policy, worker)
        worker.send(number)

        assert worker.wait() == 0
        assert len(list(batch.groups(timeout=10))) == 4
        assert "Traceback" not in worker.log


def test_a_second_signal_ends_a_drain_at_once(tmp_path: Path, redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client, stub_worker(tmp_path, redis_url, policy, *SLOW) as worker:
        client.submit([[5, 6]] * 4, None, LONG)
        wait_until_taken(redis_url, policy, worker)
        assert set(worker.members()) == {worker.pid}
        worker.send(signal.SIGTERM)
        worker.wait_until_it_says("draining")
        began = time.monotonic()
        worker.send(signal.SIGTERM)

        assert worker.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - began < AT_ONCE_S
