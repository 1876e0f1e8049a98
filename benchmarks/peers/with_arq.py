"""arq: `python -m benchmarks.peers.with_arq client | worker`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from arq import create_pool  # type: ignore[import-not-found, unused-ignore]  # a peer
from arq.connections import RedisSettings  # type: ignore[import-not-found, unused-ignore]
from arq.worker import run_worker  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.serving import CONCURRENCY, REDIS, RESULT_WAIT_S, each, obey, pass_gate, prefer_uvloop


async def noop(_ctx: dict[str, Any], _number: int) -> None:
    """Do nothing."""


async def _startup(ctx: dict[str, Any]) -> None:
    await pass_gate(ctx["redis"])


SETTINGS: dict[str, Any] = {
    "functions": [noop],
    "redis_settings": RedisSettings.from_dsn(REDIS),
    "max_jobs": CONCURRENCY,
    "on_startup": _startup,
    "poll_delay": 0.01,
}
"""With arq's default `poll_delay` of 0.5 s it starts at most 5 x `max_jobs` jobs every half second."""


class ArqClient:
    """See `serving.Client`."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._jobs: list[Any] = []

    async def enqueue(self, jobs: int) -> None:
        """See `serving.Client`."""
        self._jobs += await each(range(jobs), lambda number: self._pool.enqueue_job("noop", number))

    async def results(self) -> int:
        """See `serving.Client`."""
        jobs, self._jobs = self._jobs, []
        return len(await each(jobs, lambda job: job.result(poll_delay=RESULT_WAIT_S)))


async def _client() -> None:
    await obey(ArqClient(await create_pool(RedisSettings.from_dsn(REDIS))))


if __name__ == "__main__":
    prefer_uvloop()
    if sys.argv[1] == "client":
        asyncio.run(_client())
    else:
        asyncio.set_event_loop(asyncio.new_event_loop())
        run_worker(SETTINGS)
