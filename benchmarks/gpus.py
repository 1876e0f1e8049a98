"""One queue, a worker on each GPU: tokens a second against the number of GPUs.

For every number there is a policy with as many workers, each on a GPU of its own. All are there at once and serve the
same batch in turns; those whose turn it is not have nothing to do.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from benchmarks import report
from benchmarks.arms import Rollstream, interleaved
from benchmarks.fleet import Fleet, WorkerProcess
from benchmarks.models import Model, make
from benchmarks.report import Report, Scenario
from benchmarks.saturation import POLICY, Engines, add_engine_flags, bench_redis, prepare, shown_engines
from benchmarks.workload import SCALES, Load, Prompts, Workload, config
from producer import AsyncClient


def workload(model: Model, sequences: int) -> Workload:
    """A batch of about so many sequences, in jobs that are small enough to be shared out evenly."""
    tokens = SCALES[model.name].long // 2
    batch = Load(Prompts(model, SCALES[model.name].prompt).draw(-(-sequences // 8)), config(tokens))
    about = f"one batch of {len(batch.prompts)} prompts, n = 8, {tokens} tokens, log-probs"
    return Workload("workers, one a GPU", about, (batch,), prompts_per_job=2)


async def measure(engines: Engines, gpus: int, replicas: int, repeats: int, redis_url: str, fleet: Fleet) -> Report:
    """Workers on 1, 2, ... `gpus` GPUs, `replicas` engines each."""
    flags = engines.flags(replicas)
    teams = {
        count: [fleet.start(f"{POLICY}-{count}", *flags, gpu=gpu) for gpu in range(count)]
        for count in range(1, gpus + 1)
    }
    work = workload(engines.model, 3 * gpus * replicas * engines.max_num_seqs)
    async with AsyncExitStack() as clients:
        arms = []
        for count, workers in teams.items():
            await _serving(workers)
            client = await clients.enter_async_context(AsyncClient(redis_url, policy=f"{POLICY}-{count}"))
            arms.append(Rollstream(client, f"{count} GPU" + "s" * (count > 1)))
        await interleaved(arms, workload(engines.model, gpus * replicas * engines.max_num_seqs), 1)
        runs = await interleaved(arms, work, repeats)
    scenario = Scenario(work.name, work.about, "tok/s", arms[0].name, runs, {"tokens": work.tokens})
    return Report("gpus", [scenario], {**shown_engines(engines), "replicas": replicas})


async def _serving(workers: list[WorkerProcess]) -> None:
    for worker in workers:
        await asyncio.to_thread(worker.wait_until_serving)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpus", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument("--gpus", type=int, default=2, help="up to so many (default: %(default)s)")
    parser.add_argument("--replicas", type=int, default=1, help="engines of a worker (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each number (default: %(default)s)")
    arguments = parser.parse_args()
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        model = make(arguments.model, folder)
        engines = Engines(model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory)
        with bench_redis(arguments.redis) as url, Fleet(url, folder) as fleet:
            done = uvloop.run(measure(engines, arguments.gpus, arguments.replicas, arguments.repeats, url, fleet))
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
