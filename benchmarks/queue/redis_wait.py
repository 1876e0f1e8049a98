"""What waiting for replicas costs the queue: no-op groups a second with `--redis-wait` 0, 1 and 2, in turns.

One primary and two replicas on loopback. Each run has new processes: a trainer and stub workers that generate at once,
so that nothing hides the wait. A replica on another machine adds its round trip to each submit and each pipeline of
answers; here it is a tenth of a millisecond.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import redis

from benchmarks.peers.arms import Arm, arms
from benchmarks.queue.alone import Bench
from benchmarks.support import report
from benchmarks.support.report import Report, Scenario
from rollstream.producer.demo.embedded_redis import EmbeddedRedis

BASELINE = "wait 0"
WAITS = (0, 1, 2)
MEASURES = {"enqueue": "submits", "drain": "answers", "end to end": "submit to result"}


def replicated(stack: ExitStack, replicas: int) -> EmbeddedRedis:
    """A primary whose replicas are in step."""
    primary = stack.enter_context(EmbeddedRedis())
    for _ in range(replicas):
        replica = stack.enter_context(EmbeddedRedis())
        with redis.Redis.from_url(replica.url) as client:
            client.replicaof("127.0.0.1", primary.port)
    with redis.Redis.from_url(primary.url) as client:
        while client.wait(replicas, 1000) < replicas:
            client.set("in-step", 1)
            time.sleep(0.1)
        client.flushall()
    return primary


def measure(bench: Bench, jobs: int, workers: int, repeats: int) -> list[Scenario]:
    """Run all arms in turns."""
    found = {name: Scenario(name, about, "groups/s", BASELINE, {}) for name, about in MEASURES.items()}
    for number in range(repeats):
        for arm in _arms(bench.concurrency):
            result = bench.run(arm, jobs, workers)
            for name, scenario in found.items():
                scenario.runs.setdefault(arm.name, []).append(result[name])
        sys.stderr.write(f"round {number + 1} of {repeats}\n")
    return list(found.values())


def _arms(concurrency: int) -> list[Arm]:
    """Eight prompts a job and 256 a batch, as in `benchmarks.queue.alone`."""
    base = arms(concurrency, 256)["rollstream x8"]
    return [
        replace(base, name=f"wait {wait}", environment={**base.environment, "ROLLSTREAM_REDIS_WAIT": str(wait)})
        for wait in WAITS
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.queue.redis_wait",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=8000, help="groups of a run, a multiple of 8 (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--concurrency", type=int, default=32, help="groups at once of a worker (%(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each arm (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rollstream-bench-")))
        bench = Bench(replicated(stack, max(WAITS)), folder, folder, arguments.concurrency)
        scenarios = measure(bench, arguments.jobs, arguments.workers, arguments.repeats)
    settings = {name: getattr(arguments, name) for name in ("jobs", "workers", "concurrency")}
    report.finish(Report("redis_wait", scenarios, settings), arguments.out)


if __name__ == "__main__":
    main()
