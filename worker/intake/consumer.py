"""Takes jobs when the engine has room: one that waited for our version, a new one, one that another gave up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable
from functools import partial

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Envelope, Keys, WireError
from rollstream.transport.redis.client_settings import BLOCK_MS

from ..config import WorkerSettings
from ..delivery.admission import Admission, Claim
from ..delivery.dead_letters import DeadLetters
from ..delivery.delivery_budgets import Budgets, DeliveryBudgets
from ..delivery.lease import Lease, Leases
from ..jobs.runner import JobRunner
from ..redis_io import streams
from ..redis_io.connections import cancelled, retrying
from ..redis_io.streams import Entry, GroupMissingError
from ..versions.follower import VersionFollower
from .backpressure import Backpressure
from .batch_index import BatchIndex
from .endings import Endings
from .janitor import Janitor, Retention
from .parking import Parking
from .reader import Reader
from .recoverer import Recoverer

READ_AT_ONCE = 16
"""Jobs of one read at most: their bytes are in memory before it is known whether there is room for them."""

BUSY_S = 0.1
"""Between two looks for new jobs while all places are taken."""

log = structlog.get_logger()


class Consumer:
    """One name in the consumer group `workers`, over every partition of the policy."""

    def __init__(
        self,
        *,
        settings: WorkerSettings,
        blocking: Redis,
        commands: Redis,
        leases: Leases,
        admission: Admission,
        runner: JobRunner,
        follower: VersionFollower,
    ) -> None:
        keys = Keys(settings.policy, partitions=settings.partitions)
        self._settings = settings
        self._name = settings.consumer
        self._commands = commands
        self._leases = leases
        self._admission = admission
        self._dead_keys = {keys.jobs(p): keys.dead(p) for p in range(keys.partitions)}
        self._parking = Parking(redis=commands, jobs_keys=self._dead_keys, consumer=self._name, follower=follower)
        # With one delivery only, every job has its last one, and a busy worker would never take anything over.
        last_delivery = max(2, settings.max_deliveries)
        self._recoverer = Recoverer(
            redis=commands,
            jobs_keys=self._dead_keys,
            consumer=self._name,
            lease_s=settings.lease_s,
            admission=admission,
            leases=leases,
            last_delivery=last_delivery,
            parking=self._parking,
        )
        retention = Retention(seconds=settings.retention_s, nbytes=settings.retention_bytes)
        self._janitor = Janitor(redis=commands, jobs_keys=self._dead_keys, retention=retention, admission=admission)
        self._batch_index = BatchIndex(redis=commands, keys=keys, admission=admission)
        self._backpressure = Backpressure(redis=commands, admission=admission, janitor=self._janitor)
        self._budgets = DeliveryBudgets(
            redis=commands,
            keys=keys,
            budgets=Budgets(deliveries=settings.max_deliveries, interruptions=settings.max_interruptions),
        )
        dead_letters = DeadLetters(redis=commands, keys=keys)
        self._endings = Endings(
            leases=leases,
            admission=admission,
            runner=runner,
            budgets=self._budgets,
            parking=self._parking,
            dead_letters=dead_letters,
        )
        # A lease counts from when the read was sent: a read must not take much of it.
        block_ms = min(BLOCK_MS, int(1000 * settings.lease_s / 4))
        self._reader = Reader(
            blocking=blocking,
            commands=commands,
            consumer=settings.consumer,
            jobs_keys=self._dead_keys,
            block_ms=block_ms,
            unseen=self._unseen,
        )
        admission.on_pause = self._reader.interrupt
        self._sources: list[asyncio.Task[None]] = []
        self._unfinished: set[Lease] = set()
        """Leases of jobs that were taken and not brought to an end, those of running ones among them."""
        self._ended = 0
        """Jobs that ended since the last read."""

    def __repr__(self) -> str:
        return f"<Consumer {self._name} policy={self._settings.policy} {self._leases!r} {self._admission!r}>"

    async def run(self) -> None:
        """Take jobs until `stop`, then return once those taken are answered.

        Raises what a job raises, `EngineDiedError` above all, after cancelling the others.
        """
        async with asyncio.TaskGroup() as jobs:
            take = partial(self._take, jobs)
            self._sources = [
                jobs.create_task(self._take_new(jobs)),
                jobs.create_task(self._until_stopped(self._recoverer.run(take))),
                jobs.create_task(self._until_stopped(self._janitor.run())),
                jobs.create_task(self._until_stopped(self._batch_index.run())),
                jobs.create_task(self._until_stopped(self._backpressure.run())),
            ]

    def stop(self) -> None:
        """Read nothing more; what was taken goes on."""
        self._admission.close()
        for source in self._sources:
            source.cancel()

    async def leave(self, *, counted: bool) -> None:
        """Give back what was not finished, and our name; what Redis does not hear of ends with its lease.

        `counted`: the unfinished deliveries are held against their jobs, for one of them may have ended the engine.
        """
        try:
            async with asyncio.timeout(5):
                await self._leases.give_back(self._unfinished, counted=counted)
                await self._janitor.retire(self._name)
        except (RedisError, TimeoutError) as error:
            log.warning("jobs not given back", jobs=len(self._unfinished), error=str(error) or type(error).__name__)

    async def _take_new(self, jobs: asyncio.TaskGroup) -> None:
        try:
            await self._reader.create_groups(self._dead_keys)
            while not cancelled():
                async with self._admission.turn:
                    if not await self._admission.room():
                        return
                    # In no variable of ours: it would keep the last payloads for as long as there is no room.
                    await self._take(jobs, *(await self._parking.next() or await self._read()))
        except asyncio.CancelledError:
            self._reader.close()
            self._parking.close()
            if not self._admission.closed:
                raise
            # The read that was cut short may have been answered: then the job is ours, and nobody else can see it.
            await self._take(jobs, *await self._unseen(self._dead_keys))

    async def _read(self) -> list[Entry]:
        """New jobs. One, and one for each that ended since the last read, where there is room.

        So who is faster gets more, and whoever only fills up takes no more at a time than those who wait beside him.
        While all places are taken, and only big jobs make room for others, nothing is waited for: a new job is for a
        worker that has nothing to do, if there is one.
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
            await role
        except asyncio.CancelledError:
            if not self._admission.closed:
                raise

    async def _unseen(self, jobs_keys: Iterable[str]) -> list[Entry]:
        """Entries on our own pending list that we do not hold: their reply was lost, and `>` never returns them."""
        found: list[Entry] = []
        for jobs_key in jobs_keys:
            try:
                pending = await retrying("sweep", streams.pending_of, self._commands, self._name, jobs_key)
            except (GroupMissingError, RedisError) as error:
                log.warning("no pending list", key=jobs_key, error=str(error))
                continue
            for entry_id, delivery, taken_at in pending:
                if self._knows(jobs_key, entry_id):  # one that we gave up on is not unseen
                    continue
                unseen = await retrying(
                    "sweep", streams.read_again, self._commands, jobs_key, entry_id, delivery, taken_at
                )
                if taken_at + self._settings.lease_s < time.monotonic():  # the recoverers'
                    await self._excuse(unseen)
                else:
                    found += unseen
        return found

    async def _excuse(self, unseen: list[Entry]) -> None:
        for entry in unseen:
            try:
                await self._budgets.excuse(self._lease(entry), Envelope.of(entry.fields).batch_id)
            except (WireError, RedisError) as error:
                log.debug("delivery not excused", entry=entry.entry_id, error=str(error))

    def _knows(self, jobs_key: str, entry_id: str) -> bool:
        unfinished = ((lease.jobs_key, lease.entry_id) for lease in self._unfinished)
        return (jobs_key, entry_id) in self._leases or (jobs_key, entry_id) in unfinished

    def _lease(self, entry: Entry) -> Lease:
        return Lease(
            jobs_key=entry.jobs_key,
            dead_key=self._dead_keys[entry.jobs_key],
            entry_id=entry.entry_id,
            consumer=self._name,
            delivery=entry.delivery,
            ends_at=entry.taken_at + self._settings.lease_s,
            taken_at=entry.taken_at,
        )

    async def _take(self, jobs: asyncio.TaskGroup, *entries: Entry) -> None:
        """All that there is room for, and the first in any case: it was asked for."""
        unwanted = []
        for number, entry in enumerate(entries):
            lease = self._lease(entry)
            # Paused since the read was sent: whoever resumes first may have it. No more than one was let in.
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
        # The first steps of the jobs tell their sizes; only then is it known whether there is room for another.
        await asyncio.sleep(0)

    def _start(self, jobs: asyncio.TaskGroup, lease: Lease, entry: Entry, is_spare: bool) -> None:
        claim = self._admission.hold(entry.nbytes)
        self._unfinished.add(lease)  # from now on: a task that is cancelled before its first step runs nothing
        running = self._run(lease, entry, claim, is_spare)
        try:
            jobs.create_task(running)
        except RuntimeError:  # the grace period has just ended, and the group with it
            running.close()
            self._admission.let_go(claim)
            return
        self._leases.hold(lease)

    async def _run(self, lease: Lease, entry: Entry, claim: Claim, is_spare: bool) -> None:
        try:
            await self._leases.after_earlier(lease)
            await self._endings.run(lease, entry, claim, is_spare=is_spare)
            self._unfinished.discard(lease)
        finally:
            self._admission.let_go(claim)
            self._leases.drop(lease)
            self._ended += 1
