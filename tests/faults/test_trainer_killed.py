"""A trainer killed while it publishes: workers serve the newest complete version, and the next trainer goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rollstream import Client
from rollstream.producer.demo.embedded_redis import die_with_parent
from rollstream.producer.demo.tiny_model import write_adapter
from tests.support.fault_steps import stub
from tests.support.faults import Link, Queue
from tests.support.processes.forked_commands import Commands
from tests.support.weights.publishing import announced
from tests.support.weights.versions import report, wait_until_serves, write_steps
from tests.support.worker_process import ROOT, WorkerProcess, wait_for


@contextmanager
def trainer(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def kill_at(
    call: bytes, nth: int, *, answered: bool, policy: str, redis_url: str, publish: list[str], commands: Commands
) -> None:
    """SIGKILL to `rollstream publish` at its `nth` such call, before Redis has it or after Redis answered it."""
    with Link(redis_url) as link:
        link.stop_at(call, nth, answered=answered)
        pid = commands.start(*publish, "--policy", policy, "--redis", link.url)
        wait_for(link.stopped.is_set, 30, lambda: f"{call!r} {nth} of {publish} never came")
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as started:
        yield started


@pytest.mark.parametrize("announced_first", [False, True], ids=["before the announcement", "after it"])
def test_a_checkpoint_is_served_if_it_was_announced_and_otherwise_once_it_is_published_again(
    redis_url: str, policy: str, client: Client, queue: Queue, tmp_path: Path, announced_first: bool, commands: Commands
) -> None:
    steps = write_steps(tmp_path, 1, 2)
    publish = ["publish", "2", "--checkpoint", str(steps / "step-2")]
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        client.publish_policy(1, checkpoint=steps / "step-1")
        wait_until_serves(worker, queue, 1)
        where: dict[str, Any] = {"policy": policy, "redis_url": redis_url, "publish": publish, "commands": commands}
        kill_at(b"XADD", 1, answered=announced_first, **where)
        if not announced_first:
            assert [version.version for _, version in announced(queue)] == [1]
            assert report(worker, queue)["newest_version"] == "1"
            client.publish_policy(2, checkpoint=steps / "step-2")
        wait_until_serves(worker, queue, 2)

    assert [version.version for _, version in announced(queue)] == [1, 2]


def half_written(folder: Path) -> Callable[[], bool]:
    """Whether some of the weights are there."""
    return lambda: any(file.stat().st_size for file in folder.glob("*.safetensors*"))


WRITES = """
import sys, time
from pathlib import Path
whole, folder = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir()
for source in sorted(whole.iterdir()):
    with (folder / source.name).open("wb") as file:
        file.write(source.read_bytes()[: source.stat().st_size // 2])
        file.flush()
        if source.suffix == ".safetensors":
            time.sleep(600)
        file.write(source.read_bytes()[source.stat().st_size // 2 :])
"""


def test_a_checkpoint_whose_trainer_died_while_it_wrote_is_not_published_and_written_again_it_is(
    redis_url: str, policy: str, client: Client, queue: Queue, tmp_path: Path
) -> None:
    whole, steps = write_steps(tmp_path / "whole", 1, 2), tmp_path / "steps"
    steps.mkdir()
    (whole / "step-1").rename(steps / "step-1")
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        client.publish_policy(1, checkpoint=steps / "step-1")
        wait_until_serves(worker, queue, 1)
        with trainer("-c", WRITES, str(whole / "step-2"), str(steps / "step-2")) as process:
            wait_for(half_written(steps / "step-2"), 30, lambda: f"nothing was written: {process.poll()}")
        refused = subprocess.run(
            [sys.executable, "-m", "rollstream", "publish", "2", "--checkpoint", str(steps / "step-2"),
             "--policy", policy, "--redis", redis_url],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        for source in (whole / "step-2").iterdir():
            source.rename(steps / "step-2" / source.name)
        client.publish_policy(2, checkpoint=steps / "step-2")
        wait_until_serves(worker, queue, 2)

    assert refused.returncode == 1
    assert "model.safetensors" in refused.stderr
    assert [version.version for _, version in announced(queue)] == [1, 2]


WRITES_OF_ADAPTERS = {"chunk": (b"SET", 1), "manifest": (b"SET", 2), "announcement": (b"EVAL", 1)}


def test_an_adapter_whose_trainer_died_at_any_write_is_served_whole_or_not_at_all(
    redis_url: str, policy: str, client: Client, queue: Queue, lora_worker: WorkerProcess, tiny_model: Path,
    tmp_path: Path, commands: Commands,
) -> None:  # fmt: skip
    """Each version has content of its own: Redis is sent no chunk that it has."""
    deaths = [(write, answered) for write in WRITES_OF_ADAPTERS.values() for answered in (False, True)]
    for version in range(1, len(deaths) + 2):
        write_adapter(tmp_path, f"math@{version}", model=tiny_model, seed=version)
    client.publish_policy(1, adapter=tmp_path / "math@1")
    wait_until_serves(lora_worker, queue, 1)

    for version, ((command, nth), answered) in enumerate(deaths, start=2):
        folder = tmp_path / f"math@{version}"
        publish = ["publish", str(version), "--adapter", str(folder)]
        call = b"$%d\r\n%s\r\n" % (len(command), command)
        where: dict[str, Any] = {"policy": policy, "redis_url": redis_url, "publish": publish, "commands": commands}
        kill_at(call, nth, answered=answered, **where)
        if not (answered and command == b"EVAL"):
            assert report(lora_worker, queue)["newest_version"] == str(version - 1), (command, nth, answered)
            client.publish_policy(version, adapter=folder)
        wait_until_serves(lora_worker, queue, version)

    assert [version.version for _, version in announced(queue)] == list(range(1, len(deaths) + 2))


@pytest.fixture
def lora_worker(redis_url: str, policy: str, tiny_model: Path) -> Iterator[WorkerProcess]:
    with stub(redis_url, policy, "--lora", "--model", str(tiny_model)) as worker:
        yield worker
