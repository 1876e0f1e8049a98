"""Takes jobs while there is room: parked ones that may run now, new ones, and those of workers that lost them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial

import structlog
from redis.exceptions import RedisError

from rollstream.transport.traces.names import Outcome

from ..delivery.admission import Admission, Claim
from ..delivery.lease import Lease, Leases
from ..measure.measures import Measures
from ..redis_io.connections import cancelled
from ..redis_io.streams import Entry
from .backpressure import Backpressure
from .batch_index import BatchIndex
from .endings import Endings
from .janitor import Janitor
from .parking import Parking
from .reader import Reader
from .recoverer import Recoverer
from .sessions import Sessions
from .terms import Terms
from .unseen import Unseen

READ_AT_ONCE = 16
"""Most jobs of one read: their bytes are in memory before it is known whether there is room for them."""

BUSY_S = 0.1
"""Seconds between two looks for new jobs while all places are taken."""

Failing = Callable[[], AbstractAsyncContextManager[None]]

log = structlog.get_logger()


class Consumer:
    """A consumer in the consumer group `workers`, under one name in every partition of the policy.

    Three things change, and only in the worker's event loop: `run` sets the tasks that take jobs, which `stop` ends;
    `_unfinished` has the lease of a job from when the job is taken until it has ended well, so that `leave` gives back
    the others; `_ended` counts the jobs that ended since the last read.
    """

    def __init__(  # noqa: PLR0913 - the parts of the room, made by `make_consumer`
        self,
        *,
        terms: Terms,
        leases: Leases,
        unfinished: set[Lease],
        admission: Admission,
        reader: Reader,
        unseen: Unseen,
        parking: Parking,
        recoverer: Recoverer,
        sessions: Sessions,
        janitor: Janitor,
        batch_index: BatchIndex,
        backpressure: Backpressure,
        endings: Endings,
        measures: Measures,
        failing: Failing,
    ) -> None:
        """`failing`: makes a context; what leaves it by an error ends the worker, and all its other jobs."""
        self._terms = terms
        self._leases = leases
        self._unfinished = unfinished
        self._admission = admission
        self._reader = reader
        self._unseen = unseen
        self._parking = parking
        self._recoverer = recoverer
        self._sessions = sessions
        self._janitor = janitor
        self._batch_index = batch_index
        self._backpressure = backpressure
        self._endings = endings
        self._measures = measures
        self._failing = failing
        self._sources: list[asyncio.Task[None]] = []
        self._ended = 0

    def __repr__(self) -> str:
        return f"<Consumer {self._terms.consumer} policy={self._terms.policy} {self._leases!r} {self._admission!r}>"

    async def run(self) -> None:
        """Take jobs until `stop`; return once all of them have ended.

        Raises what a job raises, above all `EngineDiedError`, after cancelling the others.
        """
        async with asyncio.TaskGroup() as jobs:
            take = partial(self._take, jobs)
            self._sources = [
                jobs.create_task(self._guarded(self._take_new(jobs))),
                jobs.create_task(self._until_stopped(self._recoverer.run(take))),
                jobs.create_task(self._until_stopped(self._sessions.run(take))),
                jobs.create_task(self._until_stopped(self._janitor.run())),
                jobs.create_task(self._until_stopped(self._batch_index.run())),
                jobs.create_task(self._until_stopped(self._backpressure.run())),
            ]

    def stop(self) -> None:
        """Take no more jobs; those taken go on."""
        self._admission.close()
        for source in self._sources:
            source.cancel()

    async def leave(self, *, counted: bool) -> None:
        """Give back unfinished jobs and our name. If Redis cannot be reached, the jobs wait until their leases end.

        `counted`: these deliveries count against their jobs, because one of them may have killed the engine.
        """
        outcome = Outcome.LEFT
        try:
            async with asyncio.timeout(5):
                await self._leases.give_back(self._unfinished, counted=counted)
                outcome = Outcome.GIVEN_BACK
                await self._janitor.retire()
        except (RedisError, TimeoutError) as error:
            log.warning("jobs not given back", jobs=len(self._unfinished), error=str(error) or type(error).__name__)
        self._measures.jobs[outcome] += len(self._unfinished)

    async def _take_new(self, jobs: asyncio.TaskGroup) -> None:
        try:
            await self._reader.create_groups(self._terms.dead_keys)
            while not cancelled():
                async with self._admission.turn:
                    if not await self._admission.room():
                        return
                    # Not kept in a variable: it would hold the last payloads for as long as there is no room.
                    await self._take(jobs, *(await self._parking.next() or await self._read()))
        except asyncio.CancelledError:
            self._reader.close()
            self._parking.close()
            if not self._admission.closed:
                raise
            # Redis may have answered the read that was cut short: then the job is ours, and no other worker sees it.
            await self._take(jobs, *await self._unseen.find(self._terms.dead_keys))

    async def _read(self) -> list[Entry]:
        """Read new jobs: one, and one more for each that ended since the last read, if there is room.

        So a faster worker gets more jobs, and a worker that only fills up takes no more at a time than waiting ones.
        While all places are taken, and there is room only because of big jobs, the read does not wait: a new job is for
        an idle worker, if there is one.
        """
        count = self._admission.fits(min(1 + self._ended, READ_AT_ONCE))
        self._ended = 0
        if not self._admission.is_full:
            return await self._reader.read(count)
        found = await self._reader.read(count, waits=False)
        if not found:
            await asyncio.sleep(BUSY_S)
        return found

    async def _until_stopped(self, role: Coroutine[None, None, None]) -> None:
        try:
            await self._guarded(role)
        except asyncio.CancelledError:
            if not self._admission.closed:
                raise

    async def _guarded(self, role: Coroutine[None, None, None]) -> None:
        async with self._failing():
            await role

    async def _take(self, jobs: asyncio.TaskGroup, *entries: Entry) -> None:
        """Take all entries that there is room for, and the first in any case, because it was asked for."""
        unwanted = []
        for number, entry in enumerate(entries):
            lease = self._terms.lease(entry)
            # Paused since the read was sent: the worker that resumes first may have it. No more than one was let in.
            if self._admission.paused and (number > 0 or not self._admission.has_room):
                unwanted.append((lease, self._admission.hold(entry.nbytes)))
            else:
                self._start(jobs, lease, entry, number > 0)
        if unwanted:
            try:
                await self._endings.give_back(*(lease for lease, _ in unwanted))
            finally:
                for _, claim in unwanted:
                    self._admission.let_go(claim)
        # The first steps of the jobs find their sizes; only then is it known whether there is room for another.
        await asyncio.sleep(0)

    def _start(self, jobs: asyncio.TaskGroup, lease: Lease, entry: Entry, is_spare: bool) -> None:
        claim = self._admission.hold(entry.nbytes)
        self._unfinished.add(lease)  # already here, because a task that is cancelled before its first step runs nothing
        running = self._run(lease, entry, claim, is_spare)
        try:
            jobs.create_task(running)
        except RuntimeError:  # the grace period has just ended, and with it the task group
            running.close()
            self._admission.let_go(claim)
            return
        self._leases.hold(lease)

    async def _run(self, lease: Lease, entry: Entry, claim: Claim, is_spare: bool) -> None:
        try:
            async with self._failing():
                await self._leases.after_earlier(lease)
                await self._endings.run(lease, entry, claim, is_spare=is_spare)
            self._unfinished.discard(lease)
        finally:
            self._admission.let_go(claim)
            self._leases.drop(lease)
            self._ended += 1
