"""What keeping partials costs: tokens a second of jobs that one worker keeps every 5 s and of jobs that it does not.

The arms take turns in the same worker, because two processes on one machine are not equally fast.

The completions are long enough to be kept several times while they run. The details have the mean difference by pairs,
in per cent, with its 95 % interval, and how many parts were seen in Redis at once: without any, nothing was measured.
Beside the tokens a second stand the CPU seconds of the worker's own process, which are less scattered than the clock:
what they grow by is all that keeping costs the worker. With its engine's they are what the tokens cost in all.

Each pair of runs is told as it ends, and written to `--out`; no pair begins for which `--limit-s` leaves no time.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from redis.asyncio import Redis

from benchmarks.engine.engine_metrics import differences
from benchmarks.engine.saturation import Engines, add_engine_flags, bench_redis, prepare, shown_engines
from benchmarks.support import report
from benchmarks.support.arms import Arm, Rollstream, interleaved
from benchmarks.support.bounds import Limit
from benchmarks.support.fleet import Fleet, WorkerProcess
from benchmarks.support.models import make
from benchmarks.support.report import Report, Scenario
from benchmarks.support.turns import my_turn
from benchmarks.support.workload import SCALES, Load, Prompts, Workload, config
from rollstream import AsyncClient
from rollstream.schemas import Keys

LONGEST = {"tiny": 900, "1.5b": 1700, "7b": 1700}
"""Tokens of each completion."""
_POLICY = "bench-partials"
PARTS = Keys("any").parts("any").replace("any", "*")
"""The pattern of the hashes of parts; the worker has one partition."""
WAVES = 1.25
"""How often a run fills all seats."""
_WARM = 64
"""Tokens of a completion of the run that is not counted."""


def long_ones(engines: Engines, scale: float, tokens: int) -> Workload:
    """One batch of long completions."""
    model = engines.model
    groups = max(1, int(scale * WAVES * engines.max_num_seqs / 8))
    batch = Load(Prompts(model, SCALES[model.name].prompt).draw(groups), config(tokens))
    return Workload("long", f"one batch of {groups} prompts, n = 8, {tokens} tokens, log-probs", (batch,), 2)


class Counted:
    """An arm, and what the worker spends on it."""

    def __init__(self, arm: Arm, worker: WorkerProcess) -> None:
        self.name = arm.name
        self.cpu: list[float] = []
        """CPU seconds for 1,000 tokens of each run."""
        self.all_cpu: list[float] = []
        """The same with its engine's processes."""
        self._arm = arm
        self._worker = worker

    async def run(self, workload: Workload) -> float:
        """See `Arm.run`."""
        before, all_before = self._spent()
        seconds = await self._arm.run(workload)
        after, all_after = self._spent()
        self.cpu.append(1000 * (after - before) / workload.tokens)
        self.all_cpu.append(1000 * (all_after - all_before) / workload.tokens)
        return seconds

    def _spent(self) -> tuple[float, float]:
        return self._worker.cpu_s(with_engine=False), self._worker.cpu_s(with_engine=True)


async def compare(
    engines: Engines, workload: Workload, every_s: float, repeats: int, redis_url: str, fleet: Fleet,
    limit: Limit, out: Path | None,
) -> Report:  # fmt: skip
    """Run the workload kept and not kept, in turns; write all results to `out` after each pair."""
    names = {"off": 0.0, f"every {every_s:g} s": every_s}
    worker = fleet.start(_POLICY, *engines.flags())
    await asyncio.to_thread(worker.wait_until_serving)
    limit.say("the worker serves")
    await my_turn()
    seen, speed = [0], {name: list[float]() for name in names}
    scenario = Scenario(workload.name, workload.about, "tok/s", "off", speed)
    cpu = Scenario("CPU", "the worker's own process", "s/1,000 tok", "off", {})
    whole = Scenario("CPU of all", "the worker and its engine", "s/1,000 tok", "off", {})
    done = Report("partials", [scenario, cpu, whole], shown_engines(engines))
    async with AsyncExitStack() as closing:
        client = await closing.enter_async_context(AsyncClient(redis_url, policy=_POLICY))
        arms = [Counted(Rollstream(client, name, keep_partials=each), worker) for name, each in names.items()]
        await interleaved(arms, long_ones(engines, 1.0, _WARM), 1)
        for arm in arms:
            arm.cpu, arm.all_cpu = [], []
            cpu.runs[arm.name], whole.runs[arm.name] = arm.cpu, arm.all_cpu
        watching = asyncio.create_task(_watch(redis_url, seen))
        closing.callback(watching.cancel)
        for _ in range(repeats):
            if not limit.fits("a pair"):
                break
            with limit.measuring("a pair"):
                for name, runs in (await interleaved(arms, workload, 1)).items():
                    speed[name] += runs
            scenario.details = {"tokens": workload.tokens, "parts_seen": seen[0], **differences(speed)}
            cpu.details, whole.details = {**differences(cpu.runs)}, {**differences(whole.runs)}
            limit.say(", ".join(f"{name}: {runs[-1]:,.0f} tok/s" for name, runs in speed.items()))
            if out is not None:
                report.write(out, [done])
    return done


async def _watch(redis_url: str, seen: list[int]) -> None:
    """Once a second, how many parts there are; the most is kept."""
    async with Redis.from_url(redis_url) as redis:
        while True:
            counts = [await redis.hlen(name) async for name in redis.scan_iter(match=PARTS, count=1000)]
            seen[0] = max(seen[0], sum(counts))
            await asyncio.sleep(1)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.partials", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument(
        "--every-s", type=float, default=5.0, help="keep_partials of the jobs that are kept (%(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=4, help="counted runs of each arm (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer completions (default: %(default)s)")
    parser.add_argument("--tokens", type=int, help=f"of a completion; default by the model: {LONGEST}")
    parser.add_argument("--limit-s", type=float, default=1800, help="no pair begins that would end later (%(default)s)")
    arguments = parser.parse_args()
    limit = Limit(seconds=arguments.limit_s)
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        model = make(arguments.model, folder)
        engines = Engines(model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory)
        workload = long_ones(engines, arguments.scale, arguments.tokens or LONGEST[model.name])
        with bench_redis(arguments.redis) as url, Fleet(url, folder) as fleet:
            done = uvloop.run(
                compare(
                    engines, workload, arguments.every_s, arguments.repeats, url, fleet, limit, arguments.out
                )
            )  # fmt: skip
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
