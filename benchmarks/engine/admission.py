"""What admission by the engine's memory gives: tokens a second and preemptions, beside admission by count.

Two workers with the same settings and a small KV cache serve the same batches in turns. Short completions fit, and must
be as fast as ever. Of the long ones a quarter of the seats fills the cache, so vLLM takes the memory of running
sequences away (a preemption) and computes it again. Without `--kv-cache-bytes` the cache holds that quarter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import redis
import uvloop

from benchmarks.engine.engine_metrics import differences
from benchmarks.engine.saturation import Engines, add_engine_flags, bench_redis, prepare, shown_engines
from benchmarks.support import report
from benchmarks.support.arms import Rollstream
from benchmarks.support.fleet import Fleet, WorkerProcess
from benchmarks.support.models import Model, make
from benchmarks.support.report import Report, Scenario
from benchmarks.support.turns import my_turn
from benchmarks.support.workload import SCALES, Load, Prompts, Workload, config
from rollstream import AsyncClient
from rollstream.schemas import Keys
from rollstream.schemas.worker_report import WorkerReport

ARMS = {"by count": "benchmarks.support.worker_by_count", "by memory": "rollstream.worker"}
"""The module of each arm's worker."""
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


def batches(engines: Engines, scale: float) -> list[Workload]:
    """Short ones; long ones of four lengths; a long tail."""
    sizes, model = SIZES[engines.model.name], engines.model
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


def cache_bytes(model: Model, max_num_seqs: int) -> int:
    """A KV cache for one in `SHARE` of the seats, each as long as the model's limit."""
    shape = json.loads((model.folder / "config.json").read_text())
    width = shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"]
    size = 4 if model.engine_args["dtype"] == "float32" else 2
    token = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * width * size
    return int(token * model.max_model_len * max(2, max_num_seqs // SHARE))


async def compare(engines: Engines, chosen: Sequence[Workload], repeats: int, redis_url: str, fleet: Fleet) -> Report:
    """Run every workload on both, in turns."""
    workers = {arm: fleet.start(_policy(arm), *engines.flags(), module=module) for arm, module in ARMS.items()}
    for worker in workers.values():
        await asyncio.to_thread(worker.wait_until_serving)
    await my_turn()
    scenarios: list[Scenario] = []
    clients = {arm: AsyncClient(redis_url, policy=_policy(arm)) for arm in ARMS}
    try:
        for workload in chosen:
            scenarios += await _measured(clients, workers, workload, repeats, redis_url)
    finally:
        for client in clients.values():
            await client.aclose()
    return Report("admission", scenarios, shown_engines(engines))


async def _measured(
    clients: Mapping[str, AsyncClient],
    workers: Mapping[str, WorkerProcess],
    workload: Workload,
    repeats: int,
    redis_url: str,
) -> list[Scenario]:
    speed, preempted, cpu = ({arm: list[float]() for arm in clients} for _ in range(3))
    for number in range(repeats):
        for arm in list(clients) if number % 2 == 0 else reversed(list(clients)):
            before, cpu_s = _preemptions(redis_url, arm), _cpu_s(workers[arm])
            speed[arm].append(workload.tokens / await Rollstream(clients[arm]).run(workload))
            cpu[arm].append(1000 * (_cpu_s(workers[arm]) - cpu_s) / workload.tokens)
            await asyncio.sleep(_REPORTED_S)
            preempted[arm].append(_preemptions(redis_url, arm) - before)
        report.say(f"{workload.name}: run {number + 1} of {repeats}")
    details: dict[str, Any] = {"tokens": workload.tokens, **differences(speed, "by count")}
    return [
        Scenario(workload.name, workload.about, "tok/s", "by count", speed, details),
        Scenario(f"{workload.name}: preemptions", workload.about, "a run", "by count", preempted),
        Scenario(f"{workload.name}: CPU", workload.about, "s/1,000 tok", "by count", cpu, differences(cpu, "by count")),
    ]


def _preemptions(redis_url: str, arm: str) -> int:
    keys = Keys(_policy(arm))
    with redis.Redis.from_url(redis_url) as client:
        names = [name.decode() for name in cast("list[bytes]", client.zrange(keys.workers(), 0, -1))]
        hashes = [cast("dict[bytes, bytes]", client.hgetall(keys.worker(name))) for name in names]
    return sum(WorkerReport.of(told).preemptions or 0 for told in hashes)


def _cpu_s(worker: WorkerProcess) -> float:
    """CPU seconds of the worker and its engine: on a busy machine they say more than the clock."""
    process = psutil.Process(worker.process.pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _policy(arm: str) -> str:
    return f"bench-{arm.replace(' ', '-')}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.admission", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each arm (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="longer or shorter runs (default: %(default)s)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="repeat for several; default: all")
    arguments = parser.parse_args()
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        model = make(arguments.model, folder)
        cache = arguments.kv_cache_bytes or cache_bytes(model, arguments.max_num_seqs)
        engines = Engines(model, arguments.max_num_seqs, cache, arguments.memory)
        with bench_redis(arguments.redis) as url, Fleet(url, folder) as fleet:
            known = {workload.name: workload for workload in batches(engines, arguments.scale)}
            chosen = [known[name] for name in arguments.scenario or SCENARIOS]
            done = uvloop.run(compare(engines, chosen, arguments.repeats, url, fleet))
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
