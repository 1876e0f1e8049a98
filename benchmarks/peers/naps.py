"""A job that sleeps, on each peer, for `benchmarks.peers.takeovers`: `python -m benchmarks.peers.naps PEER WHAT`.

WHAT is `worker`, `enqueue NAME` (prints the job's id), or `result ID` (prints which worker's result there is). Imports
only the peer in question.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

REDIS, WORKER, RUNS = (os.environ.get(f"NAPS_{name}", "") for name in ("REDIS", "WORKER", "RUNS"))
NAP_S, SLOW, SLOW_S = 2.0, "slow", 10.0
TIMEOUT_S = 4.0
"""Seconds after which a peer takes a job over; minutes or an hour by default. arq adds 10 s."""


async def nap(job: str) -> str:
    """Note that the job runs, sleep, and return the worker's name. The job SLOW sleeps longer than TIMEOUT_S."""
    with Path(RUNS).open("a") as runs:  # noqa: ASYNC230 - a line, and nothing else runs
        runs.write(f"{job} {WORKER} {time.monotonic()}\n")
    await asyncio.sleep(SLOW_S if job == SLOW else NAP_S)
    return WORKER


async def _nap_of_arq(_ctx: dict[str, Any], job: str) -> str:
    return await nap(job)


async def arq(what: str, argument: str) -> str:
    """arq with a `job_timeout` of TIMEOUT_S."""
    from arq import create_pool, func  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - a peer
    from arq.connections import RedisSettings  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
    from arq.jobs import Job  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
    from arq.worker import Worker  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    settings = RedisSettings.from_dsn(REDIS)
    if what == "worker":
        worker = Worker([func(_nap_of_arq, name="nap")], redis_settings=settings, job_timeout=TIMEOUT_S)
        await worker.async_run()
    pool = await create_pool(settings)
    if what == "enqueue":
        return str((await pool.enqueue_job("nap", argument)).job_id)
    found = await Job(argument, pool).result_info()
    return str(found.result) or repr(found.result) if found else ""


async def streaq(what: str, argument: str) -> str:
    """With an `idle_timeout` of TIMEOUT_S."""
    from streaq import Worker  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - a peer

    worker = Worker(redis_url=REDIS, idle_timeout=TIMEOUT_S)
    task = worker.task(nap, name="nap")
    if what == "worker":
        await worker.run_async()
    async with worker:
        if what == "enqueue":
            queued = task.enqueue(argument)
            await queued
            return str(queued.id)
        try:
            return str((await worker.result_by_id(argument, timeout=1)).result)
        except TimeoutError:
            return ""


def taskiq_broker() -> Any:
    """With an `idle_timeout` of TIMEOUT_S."""
    from taskiq_redis import (  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - a peer
        RedisAsyncResultBackend,
        RedisStreamBroker,
    )

    backend = RedisAsyncResultBackend(REDIS)
    broker = RedisStreamBroker(REDIS, idle_timeout=int(1000 * TIMEOUT_S)).with_result_backend(backend)
    broker.register_task(nap, task_name="nap")
    return broker


async def taskiq(what: str, argument: str) -> str:
    """taskiq-redis; its worker is `taskiq worker -f benchmarks.peers.naps:taskiq_broker`."""
    broker = taskiq_broker()
    await broker.startup()
    if what == "enqueue":
        return str((await broker.find_task("nap").kiq(argument)).task_id)
    ready = await broker.result_backend.is_result_ready(argument)
    return str((await broker.result_backend.get_result(argument)).return_value) if ready else ""


if __name__ == "__main__":
    peer, what, argument = (*sys.argv[1:], "")[:3]
    print(asyncio.run({"arq": arq, "streaq": streaq, "taskiq-redis": taskiq}[peer](what, argument)))  # noqa: T201 - the answer
