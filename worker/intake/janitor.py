"""Removes finished jobs after their retention, and the consumers of workers that are gone."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys
from rollstream.schemas.parked import is_parked

from ..delivery.admission import Admission
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled
from ..redis_io.streams import GroupMissingError, idle_consumers
from . import scripts

PERIOD_S = 60
CONSUMER_IDLE_S = 60
"""A consumer that holds nothing and was idle for so many seconds goes, if no live worker has its name."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long finished jobs stay in a partition's stream, for replay: until one of these is exceeded."""

    seconds: float
    nbytes: int
    """Size of the whole stream, with its unfinished jobs, which always stay."""


class Janitor:
    """Cleans every partition about once a minute; any number of workers may do so at once."""

    def __init__(self, *, redis: Redis, keys: Keys, consumer: str, retention: Retention, admission: Admission) -> None:
        """`consumer`: this worker's own, which lives."""
        self._redis = redis
        self._admission = admission
        self._keys = keys
        self._consumer = consumer
        self._jobs_keys = [keys.jobs(p) for p in range(keys.partitions)]
        self._retention = retention

    async def run(self) -> None:
        """Clean all partitions again and again until admission closes, also after Redis was away."""
        while not (self._admission.closed or cancelled()):
            await asyncio.sleep(random.uniform(0.5, 1) * PERIOD_S)
            for jobs_key in self._jobs_keys:
                try:
                    await self.trim(jobs_key)
                    await self.remove_dead_consumers(jobs_key, CONSUMER_IDLE_S)
                except (RedisError, GroupMissingError) as error:
                    FAILED.add()
                    log.warning("cleaning put off", error=str(error))

    async def trim(self, jobs_key: str) -> int:
        """Remove finished entries, the oldest first, until the stream keeps to the retention, and count them.

        Small jobs go by whole nodes of the stream, so that a few KiB of finished jobs may stay.
        """
        trimmed = 0
        while gone := await self._step(jobs_key, self._retention.nbytes):
            trimmed += gone
        return trimmed

    async def give_up_history(self) -> int:
        """Remove the oldest finished entries of every partition, in one step, before their retention; count them.

        Raises `RedisError` if no partition had any and one was not reached.
        """
        gone, unreached = 0, None
        for jobs_key in self._jobs_keys:
            try:
                gone += await self._step(jobs_key, 0)
            except RedisError as error:
                if cancelled():
                    raise asyncio.CancelledError from error
                unreached = error
        if unreached is not None and not gone:
            raise unreached
        return gone

    async def _step(self, jobs_key: str, nbytes: int) -> int:
        retention_ms = int(1000 * self._retention.seconds)
        return await scripts.trim(self._redis, jobs_key, retention_ms=retention_ms, nbytes=nbytes)

    async def remove_dead_consumers(self, jobs_key: str, idle_s: float) -> None:
        """Remove the consumers that hold nothing, were idle for `idle_s` seconds and are no live worker's.

        Being idle proves nothing: a paused worker asks for no job, and before 7.2 Redis counts no read that got none.
        """
        for consumer in await idle_consumers(self._redis, jobs_key, idle_s):
            if await self._lives(consumer) or not await scripts.retire(self._redis, jobs_key, consumer=consumer):
                continue
            if not is_parked(consumer):
                log.info("dead consumer removed", dead=consumer)

    async def _lives(self, consumer: str) -> bool:
        return consumer == self._consumer or bool(await self._redis.exists(self._keys.worker(consumer)))

    async def retire(self) -> None:
        """Remove this worker's own consumer from each partition in which it holds nothing."""
        for jobs_key in self._jobs_keys:
            await scripts.retire(self._redis, jobs_key, consumer=self._consumer)
