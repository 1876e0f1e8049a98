"""Write what this worker does into a hash with a TTL, so that a dead worker disappears from `rollstream status`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas.times import report_ttl_s
from rollstream.schemas.worker_report import WorkerReport

from ..redis_io.connections import cancelled, never_passes

log = structlog.get_logger()


class Heartbeat:
    """Writes `report()` every `interval_s` seconds; the hash outlives three missed beats."""

    def __init__(
        self, *, redis: Redis, key: str, interval_s: float, report: Callable[[], WorkerReport], ttl_s: int = 0
    ) -> None:
        """`ttl_s`: a longer TTL, for a process that may miss three beats while it loads."""
        self._redis = redis
        self._key = key
        self._interval_s = interval_s
        self._report = report
        self._ttl_s = max(ttl_s, report_ttl_s(interval_s))
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Report until cancelled. No answer of Redis stops this."""
        while not cancelled():
            self._hurry.clear()
            try:
                await self.beat()
            except RedisError as error:
                log.warning("heartbeat missed", error=str(error))
                if never_passes(error):  # something else wrote our key
                    await self.retire()
            if cancelled():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._hurry.wait()

    def hurry(self) -> None:
        """Report now: something has changed that others wait for."""
        self._hurry.set()

    async def beat(self) -> None:
        """Write one report."""
        report: Any = replace(
            self._report(), seen_at=round(time.time(), 3)
        ).fields()  # redis-py's mappings are invariant
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._key, mapping=report)
            pipe.expire(self._key, self._ttl_s)
            await pipe.execute()

    async def retire(self) -> None:
        """Remove the report, when the worker ends in order."""
        try:
            await self._redis.delete(self._key)
        except RedisError as error:
            log.debug("report left to its TTL", error=str(error))
