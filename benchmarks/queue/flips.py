"""How soon a fleet of stub workers serves a policy version once it is activated.

Each version is announced, prepared by all workers, and then activated by hand. Measured is the time from the call of
`activate` until the reports of all workers say that they serve it; workers, Redis and trainer share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from redis.asyncio import Redis

from benchmarks.queue.crowd import Crowd, CrowdFailedError, Load
from benchmarks.support import report
from benchmarks.support.report import Report, Scenario
from rollstream import AsyncClient
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.tiny_model import write_model
from rollstream.producer.policies.live_workers import live_reports
from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import WorkerReport

POLICY = "flips"
BUSY = 16
_LOOK_S = 0.02
_LIMIT_S = 120


async def measure(url: str, crowd: Crowd, folder: Path, workers: int, repeats: int) -> Report:
    """The seconds of each activation, idle and with batches under way."""
    keys = Keys(POLICY)
    runs: dict[str, list[float]] = {"idle": [], "busy": []}
    numbers = itertools.count(1)
    await crowd.grow(workers, batches=0)
    async with AsyncClient(url, policy=POLICY) as client, Redis.from_url(url) as redis:
        for arm, seconds in runs.items():
            if arm == "busy":
                await crowd.grow(workers, batches=BUSY)
            for _ in range(repeats):
                number = next(numbers)
                seconds.append(await _flip(client, redis, keys, folder, number, workers))
                report.say(f"{arm}, version {number}: served by {workers} workers after {seconds[-1]:.3f} s")
    about = f"{workers} stub workers, {repeats} activations each, busy with {BUSY} batches under way"
    return Report("flips", [Scenario("activation to served by all", about, "s", "idle", runs)])


async def _flip(client: AsyncClient, redis: Redis, keys: Keys, folder: Path, version: int, workers: int) -> float:
    checkpoint = await asyncio.to_thread(write_model, folder / f"v{version}", seed=version, tokenizer=False)
    await client.publish_policy(version, checkpoint=checkpoint, activate="by_hand")
    await _until(redis, keys, workers, lambda one: one.prepared_version == version)
    began = time.perf_counter()
    await client.activate(version)
    await _until(redis, keys, workers, lambda one: one.policy_version == version)
    return time.perf_counter() - began


async def _until(redis: Redis, keys: Keys, workers: int, state: Callable[[WorkerReport], bool]) -> None:
    until = time.monotonic() + _LIMIT_S
    while time.monotonic() < until:
        if sum(map(state, (await live_reports(redis, keys)).values())) == workers:
            return
        await asyncio.sleep(_LOOK_S)
    raise CrowdFailedError(f"not all of {workers} workers within {_LIMIT_S} s")


async def _run(workers: int, repeats: int) -> Report:
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder, EmbeddedRedis() as server:
        load = Load(tokens_per_s=2000, sequences=8, prompts=4, prompt_len=16, n=2, new_tokens=64)
        more = {"checkpoint_dir": folder}
        with Crowd(server.url, POLICY, 1, load, Path(folder), more) as crowd:
            return await measure(server.url, crowd, Path(folder), workers, repeats)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue.flips", description=__doc__)
    parser.add_argument("--workers", type=int, default=64, help="stub workers (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="activations, busy and idle (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    arguments = parser.parse_args()
    report.finish(asyncio.run(_run(arguments.workers, arguments.repeats)), arguments.out)


if __name__ == "__main__":
    main()
