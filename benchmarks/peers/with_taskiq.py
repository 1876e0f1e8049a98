"""taskiq-redis, its stream broker: `python -m benchmarks.peers.with_taskiq client`; workers are `taskiq worker`."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from taskiq import TaskiqEvents, TaskiqState  # type: ignore[import-not-found, unused-ignore]  # a peer
from taskiq_redis import (  # type: ignore[import-not-found, unused-ignore]
    RedisAsyncResultBackend,
    RedisStreamBroker,
)

from benchmarks.peers.serving import REDIS, RESULT_WAIT_S, each, obey, pass_gate, prefer_uvloop


async def noop(_number: int) -> None:
    """Do nothing."""


async def _startup(_state: TaskiqState) -> None:
    async with Redis.from_url(REDIS) as redis:
        await pass_gate(redis)


broker: Any = RedisStreamBroker(REDIS).with_result_backend(RedisAsyncResultBackend(REDIS, result_ex_time=3600))
_task = broker.task(task_name="noop")(noop)
broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, _startup)


class TaskiqClient:
    """See `serving.Client`."""

    def __init__(self) -> None:
        self._jobs: list[Any] = []

    async def enqueue(self, jobs: int) -> None:
        """See `serving.Client`."""
        self._jobs += await each(range(jobs), _task.kiq)

    async def results(self) -> int:
        """See `serving.Client`."""
        jobs, self._jobs = self._jobs, []
        return len(await each(jobs, lambda job: job.wait_result(check_interval=RESULT_WAIT_S)))


async def _client() -> None:
    await broker.startup()
    await obey(TaskiqClient())


if __name__ == "__main__":
    prefer_uvloop()
    asyncio.run(_client())
