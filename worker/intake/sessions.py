"""Leaves jobs of sessions to the worker that has their prefix in its cache, for a while, and takes those left to us.

A job that waits is pending under a consumer named for that worker, with so much of its lease used up that the lease
ends when it has waited long enough: then the sweep for jobs of dead workers gives it to anybody. So whatever becomes of
the worker, no job waits longer than it was told to. Where its report says that it drains, or is gone, a sweep ends the
wait before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Job
from rollstream.schemas.parked import ParkedForWorker
from rollstream.schemas.times import SESSION_WORKER_TTL_S
from rollstream.transport.traces.names import Outcome

from ..conversations.affinity import left_s
from ..conversations.session_workers import SessionWorkers
from ..delivery.admission import Admission
from ..delivery.lease import Lease
from ..jobs.deadlines import RedisClock, waited_s
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled
from ..redis_io.streams import Entry, GroupMissingError, Take, tell_removed
from . import scripts

LOOK_S = 0.05
"""Seconds between two looks for jobs that wait for this worker, while one of its sessions had a turn a moment ago."""
FRESH_S = 60.0
"""So long after a turn the next one is expected soon."""
SLOW_LOOK_S = 0.5
"""Seconds between two looks after that, until the session's worker is forgotten."""

log = structlog.get_logger()


class Sessions:
    """It sends nothing before the first job of a session, and nothing for jobs of none."""

    def __init__(
        self,
        *,
        redis: Redis,
        jobs_keys: Iterable[str],
        consumer: str,
        lease_s: float,
        workers: SessionWorkers,
        admission: Admission,
        clock: RedisClock,
    ) -> None:
        self._redis = redis
        self._jobs_keys = list(jobs_keys)
        self._consumer = consumer
        self._lease_s = lease_s
        self._workers = workers
        self._admission = admission
        self._clock = clock
        self._last: float | None = None
        """When a session had a turn here (monotonic seconds); None: never."""
        self._began = asyncio.Event()

    async def leave(self, lease: Lease, job: object) -> Outcome | None:
        """Leave the job to its session's worker, if it is worth waiting for; None: it may run here.

        If Redis does not answer, the job may be parked or not, and waits for its lease.
        """
        if not isinstance(job, Job) or job.session is None:
            return None
        left = left_s(job, waited_s(lease.entry_id, self._clock.now()))
        owner = await self._workers.worth_waiting_for(job.session) if left > 0 else None
        if owner is None:
            return None
        waited_ms = max(0, int(1000 * (self._lease_s - left)))
        try:
            outcome = await scripts.park(self._redis, lease, under=ParkedForWorker(owner), waited_ms=waited_ms)
        except RedisError as error:
            if cancelled():
                raise asyncio.CancelledError from error
            log.warning("job cannot be parked, it waits for its lease", entry=lease.entry_id, error=str(error))
            return Outcome.LEFT
        log.debug("job waits for its session's worker", entry=lease.entry_id, worker=owner, left_s=left)
        return Outcome.PARKED if outcome == "parked" else Outcome.LEFT

    async def begins(self, job: object) -> None:
        """A job runs here: if it is one of a session, the next turn is for this worker."""
        if isinstance(job, Job) and job.session is not None:
            await self._workers.runs_here(job.session)
            self.had_turn(job)

    def had_turn(self, job: object) -> None:
        """A job has run here, or begins to: if it is one of a session, the next turn may come soon."""
        if isinstance(job, Job) and job.session is not None:
            self._last = time.monotonic()
            self._began.set()

    async def run(self, take: Take) -> None:
        """Take jobs that wait for this worker while it has room, until admission closes."""
        while not (self._admission.closed or cancelled()):
            await self._pause()
            for jobs_key in self._jobs_keys:
                while self._admission.has_room and (entry := await self._look(jobs_key)) is not None:
                    log.debug("job of a session taken", entry=entry.entry_id, delivery=entry.delivery)
                    await take(entry)

    async def free(self, jobs_key: str) -> None:
        """End the waits for workers that are gone or drain: from now on anybody takes these jobs.

        Raises `RedisError`, `GroupMissingError`.
        """
        for owner in await scripts.waited_for(self._redis, jobs_key):
            if await self._workers.is_leaving(owner.worker):
                freed = await scripts.free_parked(self._redis, jobs_key, under=owner, idle_ms=int(1000 * self._lease_s))
                if freed:
                    log.info("jobs wait no longer for their session's worker", worker=owner.worker, jobs=freed)

    async def _pause(self) -> None:
        since = None if self._last is None else time.monotonic() - self._last
        if since is None or since > SESSION_WORKER_TTL_S:
            self._began.clear()
            await self._began.wait()
        else:
            await asyncio.sleep(LOOK_S if since < FRESH_S else SLOW_LOOK_S)

    async def _look(self, jobs_key: str) -> Entry | None:
        try:
            removed, entry = await scripts.take_parked(self._redis, jobs_key, consumer=self._consumer)
        except (RedisError, GroupMissingError) as error:
            if cancelled():
                raise asyncio.CancelledError from error
            FAILED.add()
            log.debug("jobs of sessions not looked for", key=jobs_key, error=str(error))
            return None
        tell_removed(jobs_key, removed)
        return entry
