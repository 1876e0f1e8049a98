"""What it costs to be watched: tokens a second and CPU of workers with metrics, traces, exporter and page, in turns.

Each arm is a worker of its own with the same engine; the baseline is one that nobody watches. While one runs the others
are idle. Wall time needs a machine with cores to spare; on two cores look at the CPU seconds, of the worker and its
engine alone, and at their interval.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import redis
import uvloop

from benchmarks.engine.saturation import Engines, add_engine_flags, bench_redis, prepare, shown_engines
from benchmarks.support import report
from benchmarks.support.arms import Rollstream
from benchmarks.support.fleet import Fleet, WorkerProcess
from benchmarks.support.models import make
from benchmarks.support.processes import LoggedProcess
from benchmarks.support.report import Report, Scenario
from benchmarks.support.workload import Workload, workloads
from rollstream import AsyncClient
from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import WorkerReport

OFF = "nobody watches"
METRICS, ENGINE_METRICS, TRACES, PAGE = "metrics", "metrics of the engine too", "traces", "exporter and page"
FLAGS: Mapping[str, Sequence[str]] = {
    OFF: (),
    METRICS: ("--metrics-port", "auto"),
    ENGINE_METRICS: ("--metrics-port", "auto", "--engine-metrics"),
    TRACES: (),
    PAGE: (),
}
RESAMPLED = 2000


@dataclass(eq=False)
class Watched:
    """A worker, and what watches it while its turn lasts."""

    name: str
    worker: WorkerProcess
    rollstream: Rollstream
    urls: tuple[str, ...] = ()
    """Asked once a second, as Prometheus and a browser do more seldom."""
    tokens_per_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """CPU seconds of worker and engine for 1,000 tokens, a number a run."""

    async def run(self, workload: Workload) -> None:
        """One run, watched."""
        before = _cpu_s(self.worker.process.pid)
        with _asked(self.urls):
            seconds = await self.rollstream.run(workload)
        self.tokens_per_s.append(workload.tokens / seconds)
        self.cpu_s.append((_cpu_s(self.worker.process.pid) - before) * 1000 / workload.tokens)


def _cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    found = (one.cpu_times() for one in (process, *process.children(recursive=True)))
    return sum(times.user + times.system for times in found)


@contextmanager
def _asked(urls: Sequence[str]) -> Iterator[None]:
    over = threading.Event()

    def ask() -> None:
        while not over.wait(1.0):
            for url in urls:
                with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - a port of this machine
                    reply.read()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


class _Sink(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _sink() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def _traced(endpoint: str) -> dict[str, str]:
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
    }


def _metrics_url(redis_url: str, policy: str) -> str:
    keys = Keys(policy)
    with redis.Redis.from_url(redis_url) as client:
        [worker] = client.zrange(keys.workers(), 0, -1)
        told = WorkerReport.of(client.hgetall(keys.worker(worker.decode())))
    return f"http://127.0.0.1:{told.metrics_port}/metrics"


class Onlookers(LoggedProcess):
    """`rollstream exporter` or `rollstream web` of one policy; it prints where it listens."""

    def __init__(self, command: str, redis_url: str, policy: str, folder: Path) -> None:
        self._output = folder / f"{command}.log"
        words = [
            sys.executable,
            "-m",
            "rollstream",
            command,
            "--policy",
            policy,
            "--redis",
            redis_url,
            "--port",
            "auto",
        ]
        ours = {name: value for name, value in os.environ.items() if not name.upper().startswith("ROLLSTREAM_")}
        super().__init__(words, self._output, {**ours, "PYTHONUNBUFFERED": "1"})

    def url(self) -> str:
        """The URL that it printed."""
        while True:
            words = self._output.read_text().split()
            found = next((word for word in words if word.startswith("http://")), None)
            if found is not None:
                return found.rstrip("/.,")
            if reason := self.why_it_does_not_serve():
                raise RuntimeError(reason)
            time.sleep(0.1)


async def measure(
    arms: Sequence[str], engines: Engines, workload: Workload, repeats: int, redis_url: str, folder: Path
) -> Report:
    """Start a worker for each arm, run them in turns, and report both figures."""
    async with AsyncExitStack() as clients:
        until_the_end = clients.enter_context(ExitStack())
        fleet = until_the_end.enter_context(Fleet(redis_url, folder))
        watched = []
        for arm in arms:
            client = await clients.enter_async_context(AsyncClient(redis_url, policy=_policy(arm)))
            watched.append(Watched(arm, _start(arm, engines, fleet, until_the_end), Rollstream(client, arm)))
        for one in watched:
            await asyncio.to_thread(one.worker.wait_until_serving)
        for one in watched:
            one.urls = _urls(one.name, redis_url, folder, until_the_end)
            await one.run(workload)
            one.tokens_per_s, one.cpu_s = [], []
        for number in range(repeats):
            for one in watched[:: -1 if number % 2 else 1]:  # so that no arm always follows the same one
                await one.run(workload)
            report.say(f"round {number + 1} of {repeats}")
    return Report("watched", [*_scenarios(workload, watched)], shown_engines(engines))


def _start(arm: str, engines: Engines, fleet: Fleet, stack: ExitStack) -> WorkerProcess:
    env = _traced(stack.enter_context(_sink())) if arm == TRACES else {}
    return fleet.start(_policy(arm), *engines.flags(), *FLAGS[arm], env=env)


def _policy(arm: str) -> str:
    return arm.replace(" ", "-")


def _urls(arm: str, redis_url: str, folder: Path, stack: ExitStack) -> tuple[str, ...]:
    if arm == PAGE:
        onlookers = [Onlookers(command, redis_url, _policy(arm), folder) for command in ("exporter", "web")]
        for one in onlookers:
            stack.callback(one.end)
        exporter, page = (one.url() for one in onlookers)
        return (exporter.removesuffix("/metrics") + "/metrics", f"{page}/api/fleet")
    return (_metrics_url(redis_url, _policy(arm)),) if "--metrics-port" in FLAGS[arm] else ()


def _scenarios(workload: Workload, watched: Sequence[Watched]) -> Iterator[Scenario]:
    for name, unit in (("tokens_per_s", "tok/s"), ("cpu_s", "CPU s a 1,000 tokens")):
        runs = {one.name: getattr(one, name) for one in watched}
        intervals = {arm: interval(found, runs[OFF]) for arm, found in runs.items() if arm != OFF}
        yield Scenario(unit, workload.about, unit, OFF, runs, {"mean_ratio_95": intervals, "tokens": workload.tokens})


def interval(runs: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Mean ratio of the pairs, and the bounds of its 95 % interval, by resampling."""
    ratios = [run / beside for run, beside in zip(runs, base, strict=True)]
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLED))
    found = (statistics.fmean(ratios), means[RESAMPLED // 40], means[-RESAMPLED // 40])
    return found[0], *(round(bound, 4) for bound in found[1:])  # type: ignore[return-value] # three of them


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.watched", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument("--repeats", type=int, default=10, help="rounds (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=2.0, help="longer or shorter runs (default: %(default)s)")
    parser.add_argument("--arm", action="append", choices=[arm for arm in FLAGS if arm != OFF], help="default: all")
    arguments = parser.parse_args()
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = Path(temporary)
        model = make(arguments.model, arguments.folder or folder)
        engines = Engines(model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory)
        workload = workloads(model, scale=arguments.scale)["large"]
        arms = [OFF, *(arguments.arm or [arm for arm in FLAGS if arm != OFF])]
        with bench_redis(arguments.redis) as url:
            done = uvloop.run(measure(arms, engines, workload, arguments.repeats, url, folder))
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
