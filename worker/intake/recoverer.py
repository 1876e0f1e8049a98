"""Takes over entries whose lease ran out, also on an idle queue; entries with a lease before them never hide them."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas.entry_id import BEFORE_ALL

from ..delivery.admission import Admission
from ..delivery.lease import Leases
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled
from ..redis_io.streams import GroupMissingError, Take, tell_removed
from . import scripts
from .clock_set_back import SetBack
from .parking import Parking
from .sessions import Sessions
from .terms import Terms

_START = str(BEFORE_ALL).encode()
_TURN_S = 1.0
"""Seconds after which the recoverer may have the turn from a reader that waits for a job."""

log = structlog.get_logger()


class Recoverer:
    """Sweeps the pending lists of the policy, jittered so that workers do not sweep in step."""

    def __init__(
        self,
        *,
        redis: Redis,
        terms: Terms,
        admission: Admission,
        leases: Leases,
        last_delivery: int,
        parking: Parking,
        set_back: SetBack,
        sessions: Sessions,
    ) -> None:
        self._terms = terms
        self._admission = admission
        self._leases = leases
        self._last_delivery = last_delivery
        self._parking = parking
        self._redis = redis
        self._set_back = set_back
        self._sessions = sessions
        self._cursors = dict.fromkeys(terms.dead_keys, _START)

    async def run(self, take: Take) -> None:
        """Give each entry that is found to `take`, until admission closes."""
        while not (self._admission.closed or cancelled()):
            await self._parking.swap_within(random.uniform(0.5, 1) * min(1.0, self._terms.lease_s / 4))
            if self._admission.has_room:
                await self._look(take)
                continue
            # With a backlog there is room only for moments, and the reader always comes first.
            with suppress(TimeoutError):
                async with asyncio.timeout(_TURN_S):
                    await self._admission.turn.acquire()
                try:
                    if await self._admission.room():
                        await self._look(take)
                finally:
                    self._admission.turn.release()

    async def _look(self, take: Take) -> None:
        """Take parked jobs that may run now; then sweep every pending list once, from where the last sweep ended."""
        while self._has_room("") and (waited := await self._parking.next()):
            await take(waited[0])
        for jobs_key in self._cursors:
            try:
                await self._set_back.look(jobs_key)
                await self._sessions.free(jobs_key)
                await self._sweep(jobs_key, take)
            except (RedisError, GroupMissingError) as error:
                if cancelled():
                    raise asyncio.CancelledError from error
                FAILED.add()
                log.warning("sweep put off", key=jobs_key, error=str(error))

    async def _sweep(self, jobs_key: str, take: Take) -> None:
        removed = 0
        while self._has_room(jobs_key):
            self._cursors[jobs_key], gone, entry = await scripts.claim(
                self._redis,
                jobs_key,
                consumer=self._terms.consumer,
                idle_ms=int(1000 * self._terms.lease_s),
                cursor=self._cursors[jobs_key],
            )
            removed += gone
            if entry is not None:
                log.info("job taken over", entry=entry.entry_id, delivery=entry.delivery)
                await take(entry)
            if self._cursors[jobs_key] == _START:
                break
        tell_removed(jobs_key, removed)

    def _has_room(self, jobs_key: str) -> bool:
        # While answers of our own ended leases wait for Redis, a sweep would take their jobs and so fence the answers.
        # While a job has its last delivery here, no job joins it that could kill the worker and so the job.
        return (
            self._admission.has_room
            and not self._leases.ended_unpublished(jobs_key)
            and not self._leases.holds_delivery(self._last_delivery)
        )
