"""How long a batch takes, from `submit` to its first group and to sealed: at low load, at 80 %, and across a death.

Low load: one batch at a time, next to `AsyncLLM` alone with the same batches. 80 %: batches come at random (Poisson) at
0.8 of the rate that the worker can serve. Death: the worker that has the only batch gets SIGKILL; then, in another
batch, its engine gets it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import uvloop

from benchmarks.engine.saturation import (
    POLICY,
    Engines,
    add_engine_flags,
    bench_redis,
    prepare,
    shown_engines,
    start_all,
)
from benchmarks.support import report
from benchmarks.support.arms import Raw, Rollstream
from benchmarks.support.fleet import Fleet, WorkerProcess
from benchmarks.support.models import make
from benchmarks.support.report import Report, Scenario, percentiles
from benchmarks.support.turns import my_turn
from benchmarks.support.workload import SCALES, Load, Prompts, Workload, config
from rollstream import AsyncClient
from rollstream.schemas import GroupResult, RollstreamError

PROMPTS_PER_JOB = 2


@dataclass
class Latencies:
    """Seconds since just before `submit`; each list has one number for each batch."""

    submitted: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    sealed: list[float] = field(default_factory=list)


class Batches:
    """Batches of 8 prompts, n = 1: so small that mostly the queue's time is measured, not the engine's."""

    def __init__(self, engines: Engines) -> None:
        self._prompts = Prompts(engines.model, SCALES[engines.model.name].prompt)
        self.config = config(32 if engines.model.name == "tiny" else 128, 1)

    def next(self) -> Load:
        """Another batch, with prompts that are in no cache."""
        return Load(self._prompts.draw(8), self.config)


async def timed(client: AsyncClient, batch: Load, into: Latencies) -> None:
    """Submit a batch, read its groups as they finish, note the times."""
    began = time.perf_counter()
    handle = await client.submit(batch.prompts, None, batch.config, prompts_per_job=PROMPTS_PER_JOB)
    into.submitted.append(time.perf_counter() - began)
    first = None
    async for _ in handle.groups():
        first = first or time.perf_counter() - began
    into.first.append(first or 0.0)
    into.sealed.append(time.perf_counter() - began)


async def low_load(raw: Raw, client: AsyncClient, batches: Batches, count: int) -> list[Scenario]:
    """One batch at a time, in turns with the engine alone, which is timed until its last completion."""
    ours, alone = Latencies(), list[float]()
    for number in range(count + 3):
        if number == 3:  # the first ones warm up connections and kernels
            ours, alone = Latencies(), []
        batch = batches.next()
        alone.append(await raw.run(Workload("low", "", (batch,))))
        await timed(client, batches.next(), ours)
    about = f"one batch of 8 prompts at a time, n = 1, {batches.config.max_new_tokens} tokens, {count} batches"
    return [
        _scenario("low load: sealed", about, {raw.name: alone, "rollstream": ours.sealed}, raw.name),
        _scenario("low load: first group", about, {"rollstream": ours.first}, "rollstream"),
        _scenario("low load: submit returns", about, {"rollstream": ours.submitted}, "rollstream"),
    ]


async def loaded(client: AsyncClient, batches: Batches, share: float, seconds: float) -> list[Scenario]:
    """Batches at random, at `share` of the rate that the worker can serve; that rate is measured first."""
    capacity = await _capacity(client, batches)
    rate = share * capacity
    found, pause = Latencies(), random.Random(1)
    ends = time.perf_counter() + seconds
    running = set()
    while time.perf_counter() < ends:
        running.add(asyncio.create_task(timed(client, batches.next(), found)))
        await asyncio.sleep(pause.expovariate(rate))
    await asyncio.gather(*running)
    about = f"{rate:.1f} batches/s at random for {seconds:g} s, {share:.0%} of {capacity:.1f}/s"
    return [
        _scenario(f"{share:.0%} load: {name}", about, {"rollstream": values}, "rollstream")
        for name, values in (("sealed", found.sealed), ("first group", found.first), ("submit", found.submitted))
    ]


async def _capacity(client: AsyncClient, batches: Batches) -> float:
    """Batches/s when 96 are submitted at once."""
    arm, seconds = Rollstream(client), []
    for _ in range(3):
        loads = tuple(batches.next() for _ in range(96))
        seconds.append(await arm.run(Workload("capacity", "", loads, PROMPTS_PER_JOB)))
    return 96 / statistics.median(seconds[1:])


async def deaths(client: AsyncClient, workers: list[WorkerProcess], batches: Batches, lease_s: float) -> list[Scenario]:
    """Kill first the worker with the most groups, then the engine of the remaining worker with the most."""
    found = []
    for what, kill in (("worker", WorkerProcess.kill), ("engine", kill_engine)):
        alive = [worker for worker in workers if worker.process.poll() is None]
        seconds, left = await _across(client, batches, alive, kill)
        about = f"SIGKILL to the {what} in mid-batch (256 prompts), others are there, --lease-s {lease_s:g}"
        details = {"groups_left": left, "lease_s": lease_s}
        name, runs = f"death of the {what}: all groups answered", {"rollstream": [seconds]}
        found.append(Scenario(name, about, "s", "rollstream", runs, details))
    return found


async def _across(
    client: AsyncClient, batches: Batches, workers: list[WorkerProcess], kill: Callable[[WorkerProcess], None]
) -> tuple[float, int]:
    """Seconds from the kill to the last answer, and how many groups had no answer at the kill."""
    prompts = [prompt for _ in range(32) for prompt in batches.next().prompts]
    handle = await client.submit(prompts, None, batches.config, prompts_per_job=PROMPTS_PER_JOB)
    workers_seen: dict[str, int] = {}
    seen = 0
    killed_at, left = 0.0, 0
    async for answer in handle.groups():
        if not isinstance(answer, GroupResult):
            raise RollstreamError(f"a group failed: {answer}")
        seen += 1
        workers_seen[answer.worker] = workers_seen.get(answer.worker, 0) + 1
        if seen == handle.num_groups // 8:
            victim = _owner(workers, max(workers_seen, key=lambda name: workers_seen[name]))
            await asyncio.to_thread(kill, victim)
            killed_at, left = time.perf_counter(), handle.num_groups - await handle.done()
    return time.perf_counter() - killed_at, left


def _owner(workers: list[WorkerProcess], consumer: str) -> WorkerProcess:
    return next(worker for worker in workers if f"-{worker.process.pid}-" in consumer)


def kill_engine(worker: WorkerProcess) -> None:
    """Send SIGKILL to an EngineCore of the worker, which then gives its jobs back and ends."""
    children = psutil.Process(worker.process.pid).children(recursive=True)
    engine = next(
        (child for child in children if "EngineCore" in " ".join([child.name(), *child.cmdline()])), children[-1]
    )
    engine.send_signal(signal.SIGKILL)


def _scenario(name: str, about: str, runs: dict[str, list[float]], baseline: str) -> Scenario:
    shown = {arm: percentiles(values) for arm, values in runs.items()}
    return Scenario(name, about, "s", baseline, runs, {"percentiles_s": shown})


async def measure(
    engines: Engines, redis_url: str, fleet: Fleet, *, count: int, seconds: float, lease_s: float
) -> Report:
    """Measure all: the engine alone and one worker, then three workers of another policy for the deaths."""
    raw = Raw(engines.settings())
    flags = [*engines.flags(), "--lease-s", f"{lease_s:g}"]
    workers = {"worker": fleet.start(POLICY, *flags)}
    mortal = {f"worker {number}": fleet.start(f"{POLICY}-deaths", *flags) for number in range(3)}
    starts = await start_all(engines, raw, {**workers, **mortal})
    await my_turn()
    batches = Batches(engines)
    try:
        async with AsyncClient(redis_url, policy=POLICY) as client:
            found = await low_load(raw, client, batches, count)
            found += await loaded(client, batches, 0.8, seconds)
        async with AsyncClient(redis_url, policy=f"{POLICY}-deaths") as client:
            found += await deaths(client, list(mortal.values()), batches, lease_s)
    finally:
        raw.close()
    return Report("latency", found, {**shown_engines(engines), "start_s": starts})


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.latency", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument("--count", type=int, default=60, help="batches at low load (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="at 80 %% load (default: %(default)s)")
    parser.add_argument("--lease-s", type=float, default=5, help="the workers' lease (default: %(default)s)")
    arguments = parser.parse_args()
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        model = make(arguments.model, folder)
        engines = Engines(model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory)
        with bench_redis(arguments.redis) as url, Fleet(url, folder) as fleet:
            sizes = {"count": arguments.count, "seconds": arguments.seconds, "lease_s": arguments.lease_s}
            done = uvloop.run(measure(engines, url, fleet, **sizes))
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
