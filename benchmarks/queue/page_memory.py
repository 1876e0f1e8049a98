"""Memory and CPU of `rollstream web` under load with browsers that look, minute by minute, with the slope.

Two stub workers answer small batches, one after the other; a third is started each minute and killed at its end, so
that names come and go. Each browser takes the stream of readings, and reads a batch's page every two seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import numpy as np
import psutil

from benchmarks.support import report
from benchmarks.support.fleet import Fleet
from benchmarks.support.processes import LoggedProcess
from benchmarks.support.report import Report, Scenario
from rollstream import Client, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis, free_port

_POLICY = "memory"
_STUB = ("--engine", "stub", "--lease-s", "5")
_MIB = 2**20


class Browsers:
    """Threads that look at the page until the block ends."""

    def __init__(self, *, port: int, count: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self.readings = 0
        self._newest = ""
        self._threads = [threading.Thread(target=self._look, args=(number == 0,)) for number in range(count)]
        self._threads.append(threading.Thread(target=self._read_batches))

    def __enter__(self) -> Browsers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _look(self, is_counted: bool) -> None:
        stream = self._get("/events")
        while not self._ended.is_set() and (line := stream.readline()):
            if is_counted and line.startswith(b'data: {"policy"'):
                self.readings += 1
                batches = json.loads(line[6:])["batches"]
                self._newest = batches[0]["batch_id"] if batches else ""

    def _read_batches(self) -> None:
        while not self._ended.wait(2.0):
            if self._newest:
                self._get(f"/api/batches/{self._newest}").read()

    def _get(self, path: str) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        connection.request("GET", path)
        return connection.getresponse()


@contextmanager
def _load(url: str, pause_s: float) -> Iterator[list[int]]:
    """Batches, one after the other; the only item is how many."""
    count, ended = [0], threading.Event()

    def submit() -> None:
        config = GenerationConfig(max_new_tokens=8, ignore_eos=True)
        with Client(url, policy=_POLICY) as client:
            while not ended.wait(pause_s):
                client.submit([[1, 2, 3]] * 8, None, config, prompts_per_job=2)
                count[0] += 1

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        yield count
    finally:
        ended.set()
        thread.join()


@contextmanager
def _page(redis_url: str, folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    port = free_port()
    words = [sys.executable, "-m", "rollstream", "web", "--policy", _POLICY, "--redis", redis_url, "--port", str(port)]
    page = LoggedProcess(words, folder / "page.log", {})
    try:
        while not page.log.startswith("http://"):
            if why := page.why_it_does_not_serve():
                raise RuntimeError(why)
            time.sleep(0.1)
        yield psutil.Process(page.process.pid), port
    finally:
        page.end()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(minutes: int, pause_s: float, browsers: int) -> Scenario:
    """MiB at the start and after each minute."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis() as redis, Fleet(redis.url, Path(folder)) as fleet:
        for worker in [fleet.start(_POLICY, *_STUB) for _ in range(2)]:
            worker.wait_until_serving()
        with (
            _page(redis.url, Path(folder)) as (process, port),
            _load(redis.url, pause_s) as count,
            Browsers(port=port, count=browsers) as looking,
        ):
            found, began = [process.memory_info().rss / _MIB], time.monotonic()
            spent_s = _cpu_s(process)
            for minute in range(minutes):
                passing = fleet.start(_POLICY, *_STUB)
                time.sleep(max(0.0, began + 60 * (minute + 1) - time.monotonic()))
                passing.kill()
                found.append(process.memory_info().rss / _MIB)
                report.say(f"minute {minute + 1}: {found[-1]:.1f} MiB, {looking.readings} readings, {count[0]} batches")
            details = {
                "batches": count[0],
                "browsers": browsers,
                "readings": looking.readings,
                "cpu_ms_a_reading": round(1000 * (_cpu_s(process) - spent_s) / max(1, looking.readings), 2),
                "slope_mib_a_minute_of_the_second_half": _slope(found[len(found) // 2 :]),
            }
    return Scenario("page", "resident memory at the start and after each minute", "MiB", "", {"": found}, details)


def _slope(values: list[float]) -> float:
    return round(float(np.polyfit(range(len(values)), values, 1)[0]), 3) if len(values) > 1 else float("nan")


def main() -> int:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue.page_memory", description=__doc__)
    parser.add_argument("--minutes", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--pause-s", type=float, default=0.1, help="between two batches (%(default)s)")
    parser.add_argument("--browsers", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "page-memory.json")
    arguments = parser.parse_args()
    scenario = measure(arguments.minutes, arguments.pause_s, arguments.browsers)
    report.finish(Report("page memory", [scenario]), arguments.out)
    report.say(f"{[round(one, 1) for one in scenario.runs['']]}\n{scenario.details}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
