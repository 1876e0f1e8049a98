"""Write what this worker does into a hash with a TTL, so that a dead worker disappears from `rollstream status`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import REPORT_FIELDS, WorkerReport
from rollstream.schemas.keys import POLICIES
from rollstream.schemas.times import LONGEST_REPORT_TTL_S, report_ttl_s
from rollstream.transport.redis import is_split

from ..measure.histogram import Histogram
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled, never_passes
from . import scripts
from .history import History

log = structlog.get_logger()

_NOTHING = dict.fromkeys(REPORT_FIELDS, "")
"""What is not known any more, such as a version that was being loaded, replaces what an earlier beat wrote."""


class Heartbeat:
    """Writes `report()` every `interval_s` seconds; the hash outlives three missed beats, or more (`report_ttl_s`)."""

    def __init__(
        self,
        *,
        redis: Redis,
        keys: Keys,
        consumer: str,
        interval_s: float,
        report: Callable[[], WorkerReport],
        ttl_s: int = 0,
        history: History | None = None,
        roundtrip: Histogram | None = None,
    ) -> None:
        """`ttl_s`: a longer TTL, for a process that may miss three beats while it loads; `roundtrip`: where the seconds
        of each beat's script are counted.
        """
        self._redis = redis
        self._keys = keys
        self._consumer = consumer
        self._interval_s = interval_s
        self._report = report
        self._ttl_s = max(ttl_s, report_ttl_s(interval_s))
        self._history = history
        self._roundtrip = roundtrip
        self._names_policy = not is_split(redis)
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Report until cancelled. No answer of Redis stops this."""
        while not cancelled():
            self._hurry.clear()
            try:
                await self.beat()
            except RedisError as error:
                FAILED.add()
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
        report, began = replace(self._report(), seen_at=round(time.time(), 3)), time.monotonic()
        fields = _NOTHING | report.fields()
        now = await scripts.beat(self._redis, self._keys, consumer=self._consumer, ttl_s=self._ttl_s, fields=fields)
        if self._roundtrip is not None:
            self._roundtrip.add(time.monotonic() - began)
        if self._names_policy:
            await self._name_policy(now)
        if self._history is not None:
            await self._history.add(now)

    async def _name_policy(self, now: float) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zadd(POLICIES, {self._keys.policy: now})
            pipe.zremrangebyscore(POLICIES, "-inf", now - LONGEST_REPORT_TTL_S)
            pipe.expire(POLICIES, LONGEST_REPORT_TTL_S)
            try:
                await pipe.execute()
            except NoPermissionError:
                self._names_policy = False
            except ResponseError as error:  # nobody waits for a hint
                log.debug("policy not named", error=str(error))

    async def retire(self) -> None:
        """Add what is left to the history and remove the report, when the worker ends in order."""
        if self._history is not None:
            with suppress(RedisError):
                await self.beat()
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(self._keys.worker(self._consumer))
            pipe.zrem(self._keys.workers(), self._consumer)
            try:
                await pipe.execute()
            except RedisError as error:
                log.debug("report left to its TTL", error=str(error))
