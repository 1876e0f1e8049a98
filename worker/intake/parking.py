"""Parks a job for a newer policy version in Redis, where it keeps no worker busy; it comes first once it may run."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas.parked import ParkedFor

from ..delivery.lease import Lease
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled, retrying
from ..redis_io.streams import Entry, GroupMissingError, tell_removed
from ..versions.follower import VersionFollower
from . import scripts

LOOK_S = 0.5
"""Seconds between two looks of a worker that found nothing."""
PATIENCE_S = 0.25
"""Seconds to wait for a partition whose node does not answer, before the others are looked at; a late reply counts."""

log = structlog.get_logger()


class Parking:
    """Parks jobs that need a newer version than this worker serves, and finds parked jobs that may run now."""

    def __init__(self, *, redis: Redis, jobs_keys: Iterable[str], consumer: str, follower: VersionFollower) -> None:
        self._redis = redis
        self._jobs_keys = list(jobs_keys)
        self._consumer = consumer
        self._follower = follower
        self._nothing: tuple[int, float] = (-1, 0.0)
        """The version for which no job was found last, and when (monotonic seconds)."""
        # A park whose reply was lost is sent again. It must not meet a later delivery of its job to us, whose fencing
        # token is the same. One lock for each stream, because a park is sent until the node of its stream answers.
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._looking = asyncio.Lock()
        self._slow: dict[str, asyncio.Task[Entry | None]] = {}

    def close(self) -> None:
        """Stop waiting for partitions."""
        for looking in self._slow.values():
            looking.cancel()

    async def park(self, lease: Lease, min_version: int) -> bool:
        """Leave the job to a worker that serves `min_version`. If Redis refuses, the job waits for its lease's end.

        Returns whether it is parked.
        """
        try:
            async with self._one_at_a_time[lease.jobs_key]:
                outcome = await retrying("park", scripts.park, self._redis, lease, under=ParkedFor(min_version))
        except RedisError as error:
            log.error("job cannot be parked, it waits for its lease", entry=lease.entry_id, error=str(error))
            return False
        log.debug("job waits for a newer version", entry=lease.entry_id, version=min_version, outcome=outcome)
        if min_version <= self._follower.serving.version:  # a swap happened meanwhile
            self._nothing = (-1, 0.0)
            self._follower.swapped.set()
        return outcome == "parked"

    async def swap_within(self, seconds: float) -> None:
        """Wait so long, or return at once if a new version was served since this last returned."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._follower.swapped.wait()
        self._follower.swapped.clear()

    async def next(self) -> list[Entry]:
        """One parked job that may run now, if there is one. It looks at once after a swap, else now and then."""
        looked_for, looked_at = self._nothing
        if self._follower.serving.version == looked_for and time.monotonic() - looked_at < LOOK_S:
            return []
        async with self._looking:
            return await self._next()

    async def _next(self) -> list[Entry]:
        version, now = self._follower.serving.version, time.monotonic()
        for jobs_key in self._jobs_keys:
            looking = self._slow.pop(jobs_key, None) or asyncio.create_task(self._look(jobs_key, version))
            try:
                done, _ = await asyncio.wait([looking], timeout=PATIENCE_S if len(self._jobs_keys) > 1 else None)
            except asyncio.CancelledError:
                looking.cancel()
                raise
            if not done:
                self._slow[jobs_key] = looking
            elif (entry := looking.result()) is not None:
                log.debug("parked job taken", entry=entry.entry_id, delivery=entry.delivery, version=version)
                return [entry]
        self._nothing = version, now
        return []

    async def _look(self, jobs_key: str, version: int) -> Entry | None:
        try:
            async with self._one_at_a_time[jobs_key]:
                removed, entry = await scripts.unpark(self._redis, jobs_key, consumer=self._consumer, version=version)
        except (RedisError, GroupMissingError) as error:
            if cancelled():
                raise asyncio.CancelledError from error
            FAILED.add()
            log.debug("parked jobs not looked for", key=jobs_key, error=str(error))
            return None
        tell_removed(jobs_key, removed)
        return entry
