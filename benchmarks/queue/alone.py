"""What the queue itself costs: no-op jobs a second, against streaq, taskiq-redis and arq on the same Redis.

Our workers run the stub engine, which generates at once; fences, ledger and results are as always. A job is one prompt
with one completion of one token; `x8` puts 8 prompts into a job, `one a batch` makes a batch of every prompt. Each run
has new processes: a client, and workers that wait at a gate while the client fills the queue.

- enqueue: the client alone, until all jobs are in Redis.
- drain: from the first finished job to the last, once the gate is open.
- end to end: with the workers still there, from the first call to the last result in the client's hands.

`python -m benchmarks.peers FOLDER` installs the peers, each by itself; they run on uvloop. Needs Redis 7 or newer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import psutil
import redis

from benchmarks.peers.arms import POLICY, Arm, Server, arms
from benchmarks.peers.serving import GO, READY
from benchmarks.support import report
from benchmarks.support.processes import ROOT
from benchmarks.support.report import Report, Scenario
from rollstream.producer.demo.embedded_redis import EmbeddedRedis, die_with_parent
from rollstream.producer.demo.redis_server import find_redis_server, redis_version
from rollstream.producer.operations.requests import pause, resume
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys, RollstreamError
from rollstream.schemas.hashes.worker_report import STATE_FIELD, WorkerState

WARM_UP = 64
TIMEOUT_S = 300.0
OLDEST_REDIS = (7,)
"""An older Redis does not count what a group has read, and lacks functions that streaq calls."""


class BenchmarkFailedError(RollstreamError):
    """Raised when a client or a worker ends, or nothing happens for minutes; the text ends with its log."""


class Process:
    """A client, which takes commands, or a worker, with all its children; its log is a file."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, *, talks: bool) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output, stderr=output, text=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl and one getppid, no lock is taken
            )  # fmt: skip

    def check(self) -> None:
        """Raises `BenchmarkFailedError` if the process has ended."""
        if self.process.poll() is not None:
            raise BenchmarkFailedError(f"exit code {self.process.returncode}:\n{self._log.read_text()[-4000:]}")

    def ask(self, line: str) -> dict[str, float]:
        """Send a command and return the client's answer, see `peers.serving.obey`. Raises `BenchmarkFailedError`."""
        if self.process.stdin is None or self.process.stdout is None:
            raise BenchmarkFailedError("no pipe")
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait(10)
            self.check()
        reply: dict[str, float] = json.loads(answer)
        return reply

    def cpu_s(self) -> float:
        """CPU seconds of the process and its children so far."""
        one = psutil.Process(self.process.pid)
        return sum(sum(each.cpu_times()[:2]) for each in [one, *one.children(recursive=True)])

    def end(self) -> None:
        """End the process and its children."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in children:
            if child.is_running():
                child.kill()


@dataclass
class Bench:
    """One Redis, and where to find the peers."""

    server: EmbeddedRedis
    folder: Path
    peers: Path
    concurrency: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self, arm: Arm, jobs: int, workers: int) -> dict[str, float]:
        """Make one run; returns jobs a second, and ms of CPU for each job."""
        with redis.Redis.from_url(self.server.url) as server, ExitStack() as ending:
            server.flushall()
            if arm.ours:
                asyncio.run(_operate(pause, self.server.url))
            crew = [ending.enter_context(self._started(arm, arm.worker)) for _ in range(workers)]
            client = ending.enter_context(self._started(arm, [arm.module, "client"]))
            _wait(lambda: _at_gate(arm, server) == workers, crew)
            client.ask(f"enqueue {WARM_UP}")
            filled = client.ask(f"enqueue {jobs}")
            spent = self._spent(crew)
            drained = self._drain(arm, server, jobs + WARM_UP, crew)
            spent = {name: 1000 * (now - spent[name]) / jobs for name, now in self._spent(crew).items()}
            _check(client.ask("results"), jobs + WARM_UP)
            again = client.ask(f"enqueue {jobs}")
            read = client.ask("results")
            _check(read, jobs)
        return {
            "enqueue": jobs / filled["seconds"],
            "drain": drained,
            "end to end": jobs / (again["seconds"] + read["seconds"]),
            "client, ms of CPU a job": 1000 * (again["cpu_s"] + read["cpu_s"]) / jobs,
            **{f"{name}, ms of CPU a drained job": value for name, value in spent.items()},
        }

    def _drain(self, arm: Arm, server: Server, queued: int, crew: Sequence[Process]) -> float:
        """Open the gate; returns jobs a second, from the first look with a finished job to the last job.

        If the first look finds all jobs finished, the time counts from the gate.
        """

        def drained() -> bool:
            seen.append((time.perf_counter(), arm.done(server, queued)))
            return seen[-1][1] >= queued

        if arm.ours:
            asyncio.run(_operate(resume, self.server.url))
        seen = [(time.perf_counter(), 0)]
        server.set(GO, 1)
        _wait(drained, crew)
        began, first = next((sample for sample in seen[:-1] if sample[1] > 0), seen[0])
        return (queued - first) / (seen[-1][0] - began)

    def _spent(self, crew: Sequence[Process]) -> dict[str, float]:
        server = psutil.Process(self.server.pid).cpu_times()
        return {"workers": sum(one.cpu_s() for one in crew), "redis": server.user + server.system}

    @contextmanager
    def _started(self, arm: Arm, arguments: Sequence[str]) -> Iterator[Process]:
        python = python_of(arm, self.peers)
        ours = {name: value for name, value in os.environ.items() if not name.upper().startswith("ROLLSTREAM_")}
        shared = {"QUEUE_BENCH_REDIS": self.server.url, "QUEUE_BENCH_CONCURRENCY": str(self.concurrency)}
        flags = ["--redis", self.server.url] if arguments[0] == "rollstream.worker" else []
        log = self.folder / f"{arm.module}-{next(self._numbers)}.log"
        talks = arguments[-1] == "client"
        process = Process([python, "-m", *arguments, *flags], {**ours, **shared, **arm.environment}, log, talks=talks)
        try:
            yield process
        finally:
            process.end()


def _at_gate(arm: Arm, server: Server) -> int:
    if not arm.ours:
        return int(server.get(READY) or 0)
    keys = Keys(POLICY)
    workers = cast("list[bytes]", server.zrange(keys.workers(), 0, -1))
    states = (server.hget(keys.worker(worker.decode()), STATE_FIELD) for worker in workers)
    return sum(state == WorkerState.PAUSED.encode() for state in states)


async def _operate(change: Callable[[Connection, Keys], Awaitable[bool]], url: str) -> None:
    connection = Connection(access=url, reconnect_s=10)
    try:
        await change(connection, Keys(POLICY))
    finally:
        await connection.aclose()


def _wait(until: Callable[[], bool], crew: Sequence[Process]) -> None:
    give_up = time.monotonic() + TIMEOUT_S
    while not until():
        for process in crew:
            process.check()
        if time.monotonic() > give_up:
            raise BenchmarkFailedError(f"nothing more after {TIMEOUT_S:g} s")
        time.sleep(0.02)


def _check(read: Mapping[str, float], jobs: int) -> None:
    if read["count"] != jobs:
        raise BenchmarkFailedError(f"{read['count']} results of {jobs} jobs")


def measure(bench: Bench, chosen: Sequence[Arm], jobs: int, workers: Sequence[int], repeats: int) -> list[Scenario]:
    """Run all arms in turns, `repeats` times, for each number of workers."""
    found: dict[str, Scenario] = {}
    for count, _, arm in itertools.product(workers, range(repeats), chosen):
        for name, value in bench.run(arm, jobs, count).items():
            unit, about = ("ms", f"{jobs} jobs") if "CPU" in name else ("jobs/s", f"{jobs} no-op jobs")
            title = name if name == "enqueue" else f"{name}, {count} worker{'s' * (count > 1)}"
            scenario = found.setdefault(title, Scenario(title, about, unit, chosen[0].name, {}))
            scenario.runs.setdefault(arm.name, []).append(value)
        sys.stderr.write(f"{arm.name}, {count} workers: done\n")
    return sorted(found.values(), key=lambda scenario: scenario.unit)


def _versions(python: str) -> dict[str, str]:
    """Versions of the peers' packages, as their own Python finds them."""
    names = ("streaq", "coredis", "taskiq-redis", "taskiq", "arq", "redis", "uvloop")
    code = (
        "import json, sys; from importlib.metadata import distributions as d; "
        "found = {x.name.lower(): x.version for x in d()}; "
        "print(json.dumps({n: found[n] for n in sys.argv[1:] if n in found}))"
    )
    known: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code, *names], text=True))
    return known


def python_of(arm: Arm, peers: Path) -> str:
    """The Python that has the queue installed; `peers`: the folder of `benchmarks.peers`."""
    return sys.executable if arm.ours else str(peers.absolute() / arm.name / "bin" / "python")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.queue.alone",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs of a run (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="default: 1 2 4")
    parser.add_argument("--concurrency", type=int, default=32, help="jobs at once of a worker (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="prompts of a batch of ours (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each arm (default: %(default)s)")
    parser.add_argument("--arm", action="append", choices=list(arms(32, 256)), help="repeat for several; default: all")
    parser.add_argument("--peers", type=Path, default=Path("runs/peers"), help="of `benchmarks.peers` (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes")
    arguments = parser.parse_args()
    if arguments.jobs % 8 or arguments.batch % 8:
        parser.error("--jobs and --batch: multiples of 8, for one arm puts 8 prompts into a job")
    if redis_version(binary := find_redis_server()) < OLDEST_REDIS:
        parser.error(f"{binary} is older than Redis 7, which this needs; put another redis-server on PATH")
    known = arms(arguments.concurrency, arguments.batch)
    chosen = [known[name] for name in arguments.arm or known]
    if missing := [arm.name for arm in chosen if not Path(python_of(arm, arguments.peers)).exists()]:
        problem = (
            f"{', '.join(missing)}: not in {arguments.peers}, where `python -m benchmarks.peers {arguments.peers}`"
        )
        parser.error(f"{problem} puts them; --arm rollstream needs none")
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder, EmbeddedRedis() as server:
        bench = Bench(server, Path(folder), arguments.peers, arguments.concurrency)
        scenarios = measure(bench, chosen, arguments.jobs, arguments.workers, arguments.repeats)
    names = ("jobs", "concurrency", "batch")
    settings = {
        **{name: getattr(arguments, name) for name in names},
        "versions": {arm.name: _versions(python_of(arm, arguments.peers)) for arm in chosen},
    }
    report.finish(Report("queue alone", scenarios, settings), arguments.out)


if __name__ == "__main__":
    main()
