"""What the peers do with the job of a worker that is killed, paused for longer than its timeout, or just slow.

`python -m benchmarks.peers.takeovers FOLDER`, after `python -m benchmarks.peers FOLDER`. A job sleeps; its worker gets
SIGKILL, or SIGSTOP and, once another worker's result is there, SIGCONT.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.peers.naps import SLOW, TIMEOUT_S
from benchmarks.support.processes import ROOT
from rollstream.producer.demo.embedded_redis import EmbeddedRedis, die_with_parent

PEERS = ("streaq", "taskiq-redis", "arq")
PATIENCE_S = TIMEOUT_S + 16
"""Seconds to wait for a takeover; arq's takes TIMEOUT_S + 10 s."""


class Peer:
    """One queue on one Redis."""

    def __init__(self, name: str, python: Path, url: str, folder: Path) -> None:
        self.name = name
        self._python = str(python.absolute())
        self._folder = folder
        self._runs = folder / "runs"
        self._runs.write_text("")
        self._environment = {**os.environ, "NAPS_REDIS": url, "NAPS_RUNS": str(self._runs)}

    def worker(self, name: str, ending: ExitStack) -> subprocess.Popen[bytes]:
        """Start a worker in its own session. At the end it is killed, even if paused."""
        arguments = ["benchmarks.peers.naps", self.name, "worker"]
        if self.name == "taskiq-redis":
            arguments = ["taskiq", "worker", "--workers", "1", "-f", "benchmarks.peers.naps:taskiq_broker"]
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [self._python, "-m", *arguments], env={**self._environment, "NAPS_WORKER": name}, cwd=ROOT,
                stdout=log, stderr=log, start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl and one getppid, no lock is taken
            )  # fmt: skip
        ending.callback(process.wait)
        ending.callback(_signal, process, signal.SIGKILL)
        return process

    def ask(self, *arguments: str) -> str:
        """Run `naps` with these arguments; returns what it prints."""
        command = [self._python, "-m", "benchmarks.peers.naps", self.name, *arguments]
        return subprocess.check_output(command, env=self._environment, cwd=ROOT, text=True).strip()

    def runs(self, job: str) -> list[tuple[str, float]]:
        """Which workers ran the job, and when."""
        lines = [line.split() for line in self._runs.read_text().splitlines()]
        return [(worker, float(when)) for name, worker, when in lines if name == job]

    def ran(self, job: str, times: int, within_s: float) -> bool:
        """Whether the job is run so often within that time."""
        return _wait(lambda: len(self.runs(job)) >= times, within_s)


def killed(peer: Peer) -> str:
    """When is the job of a killed worker run again?"""
    with ExitStack() as ending:
        first = peer.worker("first", ending)
        time.sleep(3)
        peer.ask("enqueue", "job")
        peer.ran("job", 1, 30)
        peer.worker("second", ending)
        _signal(first, signal.SIGKILL)
        died = time.monotonic()
        if peer.ran("job", 2, PATIENCE_S):
            return f"run again {peer.runs('job')[1][1] - died:.1f} s after the kill"
        asked = time.monotonic()
        peer.ask("enqueue", "other")
        if peer.ran("job", 2, PATIENCE_S):
            after = peer.runs("job")[1][1] - asked
            return f"not run again in {PATIENCE_S:g} s; {after:.1f} s after another job was queued"
        return f"not run again in {2 * PATIENCE_S:g} s"


def paused(peer: Peer) -> str:
    """Can a worker that was paused beyond its timeout replace the result of the worker that took over?"""
    with ExitStack() as ending:
        first = peer.worker("first", ending)
        time.sleep(3)
        job = peer.ask("enqueue", "job")
        peer.ran("job", 1, 30)
        _signal(first, signal.SIGSTOP)
        peer.worker("second", ending)
        if not peer.ran("job", 2, PATIENCE_S):
            peer.ask("enqueue", "other")
            peer.ran("job", 2, PATIENCE_S)
        _wait(lambda: peer.ask("result", job) != "", 20)
        before = peer.ask("result", job)
        _signal(first, signal.SIGCONT)
        _wait(lambda: peer.ask("result", job) != before, 8)
        return f"{len(peer.runs('job'))} runs; result: {before}; after SIGCONT: {peer.ask('result', job)}"


def slow(peer: Peer) -> str:
    """Is a job that takes longer than the timeout run twice, though its worker is alive?"""
    with ExitStack() as ending:
        peer.worker("first", ending)
        peer.worker("second", ending)
        time.sleep(3)
        job = peer.ask("enqueue", SLOW)
        peer.ran(SLOW, 1, 30)
        peer.ran(SLOW, 2, TIMEOUT_S + 1)
        for number in range(2):  # one for each worker
            peer.ask("enqueue", f"other-{number}")
        found: list[str] = []
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            found += [now] if (now := peer.ask("result", job)) and now not in found[-1:] else []
        return f"{len(peer.runs(SLOW))} runs; results, one after the other: {', '.join(found)}"


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)


def _wait(until: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not until():
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
    return True


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.takeovers", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of `benchmarks.peers`")
    parser.add_argument("--peer", action="append", choices=PEERS, help="repeat for several; default: all")
    arguments = parser.parse_args()
    for name in arguments.peer or PEERS:
        for case in (killed, paused, slow):
            with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder, EmbeddedRedis() as server:
                peer = Peer(name, arguments.folder / name / "bin" / "python", server.url, Path(folder))
                sys.stdout.write(f"{name}, {case.__name__}: {case(peer)}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
