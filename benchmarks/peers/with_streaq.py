"""streaq: `python -m benchmarks.peers.with_streaq client | worker`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import coredis  # type: ignore[import-not-found, unused-ignore]  # a peer
from streaq import Worker  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.serving import CONCURRENCY, REDIS, each, obey, pass_gate, prefer_uvloop

coredis.Config.optimized = True  # as in its own benchmark


async def noop(_number: int) -> None:
    """Do nothing."""


@asynccontextmanager
async def _lifespan() -> AsyncIterator[None]:
    await pass_gate(worker.redis)
    yield


worker: Any = Worker(
    redis_url=REDIS, concurrency=CONCURRENCY, lifespan=_lifespan, anyio_kwargs={"use_uvloop": prefer_uvloop()}
)
_task = worker.task(noop)


class StreaqClient:
    """See `serving.Client`."""

    def __init__(self) -> None:
        self._jobs: list[Any] = []

    async def enqueue(self, jobs: int) -> None:
        """See `serving.Client`. Queues all in one call, as streaq's own benchmark does."""
        tasks = [_task.enqueue(number) for number in range(jobs)]
        await worker.enqueue_many(tasks)
        self._jobs += tasks

    async def results(self) -> int:
        """See `serving.Client`."""
        jobs, self._jobs = self._jobs, []
        return len(await each(jobs, lambda job: job.result(timeout=300)))


async def _client() -> None:
    async with worker:
        await obey(StreaqClient())


if __name__ == "__main__":
    if sys.argv[1] == "client":
        anyio.run(_client, backend_options={"use_uvloop": prefer_uvloop()})
    else:
        worker.run_sync()
