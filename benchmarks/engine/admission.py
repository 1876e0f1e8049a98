"""What admission by the engine's memory gives: tokens a second and preemptions, beside admission by count.

Two workers with the same settings and a small KV cache serve the same batches in turns. Short completions fit, and must
be as fast as ever. Of the long ones a quarter of the seats fills the cache, so vLLM takes the memory of running
sequences away (a preemption) and computes it again. Without `--kv-cache-bytes` the cache holds that quarter.

A round has a pair of runs of each scenario. Each pair is told as it ends, and written to `--out`; no pair begins for
which `--limit-s` leaves no time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import redis
import uvloop

from benchmarks.engine.engine_metrics import differences
from benchmarks.engine.saturation import Engines, add_engine_flags, bench_redis, prepare, shown_engines
from benchmarks.support import report
from benchmarks.support.arms import Rollstream
from benchmarks.support.bounds import Limit
from benchmarks.support.fleet import Fleet, WorkerProcess
from benchmarks.support.models import Model, make
from benchmarks.support.report import Report, Scenario
from benchmarks.support.turns import my_turn
from benchmarks.support.workload import SCALES, Load, Prompts, Workload, config
from rollstream import AsyncClient
from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import WorkerReport

BY_COUNT = "by count"
ARMS = {BY_COUNT: ("--admission", "count"), "by memory": ("--admission", "memory")}
"""The flags of each arm's worker."""
N = 4
"""Completions of a prompt."""
SHARE = 4
"""The seats in the cache's terms: so many times as many sequences as have memory at their full length."""
_REPORTED_S = 2.5
"""Until a worker's report has the numbers of a run that is over."""


@dataclass(frozen=True)
class Sizes:
    """Lengths that suit a model."""

    short: int
    longest: int
    waves: float
    """How often a run fills all seats."""


SIZES = {"tiny": Sizes(32, 900, 5), "1.5b": Sizes(128, 1700, 6), "7b": Sizes(128, 1700, 4)}


SCENARIOS = ("short", "long", "tail")


def _of_each_arm() -> dict[str, list[float]]:
    return {arm: [] for arm in ARMS}


@dataclass(kw_only=True)
class Pairs:
    """The runs of one workload."""

    workload: Workload
    speed: dict[str, list[float]] = field(default_factory=_of_each_arm)
    preempted: dict[str, list[float]] = field(default_factory=_of_each_arm)
    cpu: dict[str, list[float]] = field(default_factory=_of_each_arm)

    def scenarios(self) -> list[Scenario]:
        """Tokens a second, preemptions and CPU time."""
        name, about = self.workload.name, self.workload.about
        details: dict[str, Any] = {"tokens": self.workload.tokens, **differences(self.speed, BY_COUNT)}
        cpu: dict[str, Any] = {**differences(self.cpu, BY_COUNT)}
        return [
            Scenario(name, about, "tok/s", BY_COUNT, self.speed, details),
            Scenario(f"{name}: preemptions", about, "a run", BY_COUNT, self.preempted),
            Scenario(f"{name}: CPU", about, "s/1,000 tok", BY_COUNT, self.cpu, cpu),
        ]


def batches(engines: Engines, sizes: Sizes, scale: float) -> list[Workload]:
    """Short ones; long ones of four lengths; a long tail."""
    model = engines.model
    prompts = Prompts(model, SCALES[model.name].prompt)
    groups = max(4, int(scale * sizes.waves * engines.max_num_seqs / N))

    def some(share: float, tokens: int) -> Load:
        return Load(prompts.draw(max(1, int(groups * share))), config(tokens, N))

    quarters = tuple(some(1 / 4, sizes.longest * part // 4) for part in (1, 2, 3, 4))
    tail = some(0.9, sizes.longest // 8), some(0.1, sizes.longest)
    return [
        Workload("short", f"n = {N}, {sizes.short} tokens", (some(4, sizes.short),), 1),
        Workload("long", f"n = {N}, four batches of {sizes.longest // 4} to {sizes.longest} tokens", quarters, 1),
        Workload("tail", f"n = {N}, {sizes.longest // 8} tokens, a tenth {sizes.longest}", tail, 1),
    ]


def cache_bytes(model: Model, max_num_seqs: int, length: int) -> int:
    """A KV cache for one in `SHARE` of the seats, each of so many tokens."""
    shape = json.loads((model.folder / "config.json").read_text())
    width = shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"]
    size = 4 if model.engine_args["dtype"] == "float32" else 2
    token = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * width * size
    return int(token * length * max(2, max_num_seqs // SHARE))


async def compare(
    engines: Engines, chosen: Sequence[Workload], repeats: int, redis_url: str, fleet: Fleet,
    limit: Limit, out: Path | None,
) -> Report:  # fmt: skip
    """Run every workload on both, in turns; write all results to `out` after each pair."""
    workers = {arm: fleet.start(_policy(arm), *engines.flags(), *flags) for arm, flags in ARMS.items()}
    for worker in workers.values():
        await asyncio.to_thread(worker.wait_until_serving)
    limit.say("both workers serve")
    await my_turn()
    clients = {arm: AsyncClient(redis_url, policy=_policy(arm)) for arm in ARMS}
    found = [Pairs(workload=workload) for workload in chosen]
    try:
        for number, pairs in itertools.product(range(repeats), found):
            name = pairs.workload.name
            if not limit.fits(name):
                continue
            with limit.measuring(name):
                for arm in list(ARMS) if number % 2 == 0 else reversed(list(ARMS)):
                    await _run(clients[arm], workers[arm], arm, pairs, redis_url)
            limit.say(f"{name}: " + ", ".join(f"{arm}: {runs[-1]:,.0f} tok/s" for arm, runs in pairs.speed.items()))
            if out is not None:
                report.write(out, [_report(found, engines)])
    finally:
        for client in clients.values():
            await client.aclose()
    return _report(found, engines)


async def _run(client: AsyncClient, worker: WorkerProcess, arm: str, pairs: Pairs, redis_url: str) -> None:
    before, cpu_s, workload = _preemptions(redis_url, arm), worker.cpu_s(with_engine=True), pairs.workload
    pairs.speed[arm].append(workload.tokens / await Rollstream(client).run(workload))
    pairs.cpu[arm].append(1000 * (worker.cpu_s(with_engine=True) - cpu_s) / workload.tokens)
    await asyncio.sleep(_REPORTED_S)
    pairs.preempted[arm].append(_preemptions(redis_url, arm) - before)


def _report(found: Sequence[Pairs], engines: Engines) -> Report:
    scenarios = [scenario for pairs in found if pairs.speed[BY_COUNT] for scenario in pairs.scenarios()]
    return Report("admission", scenarios, shown_engines(engines))


def _preemptions(redis_url: str, arm: str) -> int:
    keys = Keys(_policy(arm))
    with redis.Redis.from_url(redis_url) as client:
        names = [name.decode() for name in cast("list[bytes]", client.zrange(keys.workers(), 0, -1))]
        hashes = [cast("dict[bytes, bytes]", client.hgetall(keys.worker(name))) for name in names]
    return sum(WorkerReport.of(told).preemptions or 0 for told in hashes)


def _policy(arm: str) -> str:
    return f"bench-{arm.replace(' ', '-')}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.admission", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each arm (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="longer or shorter runs (default: %(default)s)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="repeat for several; default: all")
    parser.add_argument("--longest", type=int, help="tokens of the longest completions, for which the cache is small")
    parser.add_argument("--limit-s", type=float, default=1800, help="no pair begins that would end later (%(default)s)")
    arguments = parser.parse_args()
    limit = Limit(seconds=arguments.limit_s)
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        model = make(arguments.model, folder)
        sizes, length = SIZES[model.name], model.max_model_len
        if arguments.longest:
            sizes, length = replace(sizes, longest=arguments.longest), SCALES[model.name].prompt[1] + arguments.longest
        cache = arguments.kv_cache_bytes or cache_bytes(model, arguments.max_num_seqs, length)
        engines = Engines(model, arguments.max_num_seqs, cache, arguments.memory)
        with bench_redis(arguments.redis) as url, Fleet(url, folder) as fleet:
            known = {workload.name: workload for workload in batches(engines, sizes, arguments.scale)}
            chosen = [known[name] for name in arguments.scenario or SCENARIOS]
            done = uvloop.run(compare(engines, chosen, arguments.repeats, url, fleet, limit, arguments.out))
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
