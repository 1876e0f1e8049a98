"""A lease is the right to answer one entry. It is renewed while held; its engine requests end before it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ..errors import DataError, WorkerError
from ..measure.measures import Measures
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled, never_passes
from . import scripts

_BATCH = 500
"""Leases that one script call renews."""

T = TypeVar("T")
log = structlog.get_logger()


class LeaseEndedError(WorkerError):
    """Raised in a group whose lease ran out or was lost while it was generated: another worker may own it."""


class GroupCutError(WorkerError):
    """Raised in a group that got its answer elsewhere while it was generated or waited: nobody needs another."""


@dataclass(slots=True, kw_only=True)
class _Request:
    """A request that a task waits for while its lease lasts."""

    is_stoppable: bool
    group: int | None
    """The group that it is for, if it is for one."""
    interruptions: int = 0

    def interrupt(self, caller: asyncio.Task[Any]) -> None:
        self.interruptions += 1
        caller.cancel()


@dataclass(eq=False, slots=True, kw_only=True)
class Lease:
    """One delivery of one entry to this worker. Its fencing token is (consumer, delivery); Redis checks it.

    `ends_at` is moved by `Leases` when Redis has renewed it. `ended` and `stopped` are set once, by `end` and
    `stop`, and never taken back. `_requests` has the tasks that wait within `during`, which alone changes it.
    """

    jobs_key: str
    dead_key: str
    entry_id: str
    consumer: str
    delivery: int
    """Redis' count of deliveries: 1 for the first."""
    ends_at: float
    """Monotonic seconds; not later than when Redis lets another worker have the entry."""
    taken_at: float = field(default_factory=time.monotonic)
    """Monotonic seconds; not later than when Redis delivered it."""
    is_first: bool = False
    """Whether no worker had the entry before; `delivery` does not tell, since a delivery may be taken back."""
    adapter_sha256: str | None = None
    """Digest of the adapter that its job is sampled with, empty if unknown; None: the job names none."""
    ended: bool = False
    """True once engine requests must not run for it. Finished answers may still be sent; Redis decides."""
    stopped: DataError | None = None
    """Why engine requests must not run for it although the lease goes on; its unanswered groups get this error."""
    was_cut: bool = False
    """Whether any of its groups was cut while it ran: its own answers do not acknowledge the job then."""
    _cut: set[int] = field(default_factory=set, repr=False)
    """Groups that have their answer from elsewhere; `cut` adds to it."""
    _requests: dict[asyncio.Task[Any], _Request] = field(default_factory=dict, repr=False)
    """The requests that run for it, by the task that waits for each."""

    def follows(self, other: Lease) -> bool:
        """Whether it is a later delivery of the same entry."""
        is_same = (self.jobs_key, self.entry_id) == (other.jobs_key, other.entry_id)
        return is_same and self.delivery > other.delivery

    async def during(self, request: Coroutine[Any, Any, T], *, stoppable: bool = False, group: int | None = None) -> T:
        """The result of `request`. It is cancelled when the lease ends, if `stoppable` when the job is stopped, and if
        it is for a `group` when that is cut.

        Raises `LeaseEndedError`, `GroupCutError` or the `DataError` that `stop` was given. It cancels the waiting task
        and then takes the cancel back, as `asyncio.timeout` does: a new task for each request costs more. A task has
        one request at a time.
        """
        over = self._over(stoppable=stoppable, group=group)
        if over is not None:
            request.close()
            raise over
        caller = asyncio.current_task()
        if caller is None or caller in self._requests:
            raise RuntimeError("a task has one request at a time")
        cancelled_before = caller.cancelling()
        self._requests[caller] = running = _Request(is_stoppable=stoppable, group=group)
        try:
            result = await request
            if cancelled(cancelled_before + running.interruptions):  # redis-py lost it
                raise asyncio.CancelledError
            return result
        except asyncio.CancelledError:
            if caller.cancelling() - running.interruptions > cancelled_before or not running.interruptions:
                raise  # something else cancelled the task, too
            raise self._over(stoppable=stoppable, group=group) or LeaseEndedError(f"{self} has ended") from None
        finally:
            del self._requests[caller]
            for _ in range(running.interruptions):
                caller.uncancel()

    @property
    def is_idle(self) -> bool:
        """Whether no engine request runs for it."""
        return not self._requests

    def end(self) -> bool:
        """Abort its requests: another worker may start on the entry. Returns whether it had not ended before."""
        had_ended, self.ended = self.ended, True
        for caller, running in self._requests.items():
            running.interrupt(caller)
        return not had_ended

    def stop(self, reason: DataError) -> None:
        """Abort its engine requests, because nobody wants the answers any more. The first reason stays."""
        if self.stopped is None:
            self.stopped = reason
            for caller, running in self._requests.items():
                if running.is_stoppable:
                    running.interrupt(caller)

    def cut(self, groups: Iterable[int]) -> None:
        """Abort the engine requests of these groups, which have their answer from elsewhere. Safe to repeat."""
        new = set(groups) - self._cut
        self._cut |= new
        for caller, running in self._requests.items():
            if running.group in new:
                self.was_cut = True
                running.interrupt(caller)

    def is_cut(self, group: int) -> bool:
        """Whether nobody needs this group any more."""
        return group in self._cut

    def _over(self, *, stoppable: bool, group: int | None) -> WorkerError | None:
        if self.ended:
            return LeaseEndedError(f"{self} has ended")
        if stoppable and self.stopped is not None:
            return self.stopped
        if group in self._cut:
            self.was_cut = True
            return GroupCutError(f"group {group} of {self} was cut")
        return None


class Leases:
    """All leases that this worker holds, also while it drains."""

    def __init__(
        self, *, redis: Redis, lease_s: float, measures: Measures, expiring: Callable[[Lease], None] | None = None
    ) -> None:
        """`expiring`: called with a lease in its last fifth, again and again: half of that is left for it."""
        self._expiring = expiring
        self._redis = redis
        self._measures = measures
        self._lease_s = lease_s
        self._held: set[Lease] = set()
        self._dropped = asyncio.Event()
        """Set, and replaced by a new event, at every `drop`."""

    def __repr__(self) -> str:
        return f"<Leases held={len(self._held)} of {self._lease_s:g} s>"

    def __contains__(self, entry: tuple[str, str]) -> bool:
        """Whether the entry (jobs key, entry id) is held."""
        return any((lease.jobs_key, lease.entry_id) == entry for lease in self._held)

    def __len__(self) -> int:
        return len(self._held)

    def ended_unpublished(self, jobs_key: str) -> bool:
        """Whether answers of an ended lease of this stream still wait for Redis to accept or fence them."""
        return any(lease.ended and lease.jobs_key == jobs_key for lease in self._held)

    def holds_delivery(self, delivery: int) -> bool:
        """Whether a held entry is on its `delivery`-th delivery, or a later one."""
        return any(lease.delivery >= delivery for lease in self._held)

    def hold(self, lease: Lease) -> None:
        """Renew the lease from now on."""
        self._held.add(lease)

    def drop(self, lease: Lease) -> None:
        """Renew the lease no more: its job was answered, lost or given back."""
        self._held.discard(lease)
        self._dropped.set()
        self._dropped = asyncio.Event()

    async def after_earlier(self, lease: Lease) -> None:
        """Wait until no earlier delivery of the entry is held here: by then it is noted that its worker lives.

        Otherwise a worker that took over its own entry would count itself as dead.
        """
        while any(lease.follows(held) for held in self._held):
            await self._dropped.wait()

    async def run(self) -> None:
        """Renew the leases every third of their length, and end those that could not be renewed, until cancelled."""
        async with asyncio.TaskGroup() as roles:
            roles.create_task(self._renew_for_ever())
            roles.create_task(self._end_for_ever())

    async def _renew_for_ever(self) -> None:
        while not cancelled():
            await asyncio.sleep(self._lease_s / 3)
            # A lease that ended here is not renewed: its finished answers are sent as soon as Redis is there.
            # At the same time: a cluster node that does not answer must not delay the leases of the other nodes.
            chunks = _by_stream(lease for lease in self._held if not lease.ended)
            await asyncio.gather(*(self._renew_in_time(leases) for leases in chunks))

    async def _renew_in_time(self, leases: list[Lease]) -> None:
        try:
            async with asyncio.timeout(self._lease_s / 3):
                await self._renew(leases)
        except (RedisError, TimeoutError) as error:
            FAILED.add()
            log.warning("leases not renewed", leases=len(leases), error=str(error) or type(error).__name__)

    async def _renew(self, leases: list[Lease]) -> None:
        sent_at = time.monotonic()
        lost = await scripts.renew(self._redis, leases)
        for lease in leases:
            if lease.entry_id not in lost:
                lease.ends_at = sent_at + self._lease_s
                self._measures.lease_renewals += 1
            elif lease in self._held and not lease.ended:
                self._note_loss(lease)

    def _note_loss(self, lease: Lease) -> None:
        """Log a lost lease. If no request runs for it, its last answer is on its way, or the job is parked, given back
        or buried: this is done, or the script that does it finds the loss and reports it.
        """
        if lease.is_idle:
            log.debug("no lease to renew, nothing runs for it", entry=lease.entry_id)
            return
        log.warning("lease lost", entry=lease.entry_id)
        self._lose(lease)

    def _lose(self, lease: Lease) -> None:
        """End a lease that this worker has no more; it counts once, whichever role finds it."""
        self._measures.leases_lost += lease.end()

    async def _end_for_ever(self) -> None:
        while True:
            self.end_overdue(time.monotonic())
            await asyncio.sleep(self._lease_s / 20)

    def end_overdue(self, now: float) -> None:
        """End each lease a tenth of its length before another worker could start on its entry."""
        for lease in self._held:
            if lease.ended:
                continue
            if now > lease.ends_at - self._lease_s / 10:
                log.warning("lease ran out, engine requests aborted", entry=lease.entry_id)
                self._lose(lease)
            elif self._expiring is not None and now > lease.ends_at - self._lease_s / 5:
                self._expiring(lease)

    async def give_back(self, leases: Iterable[Lease], *, counted: bool) -> None:
        """Let any worker take these entries at once; `counted`: this delivery counts against the job.

        If the stream's key now has another type, there is nothing to give back. Raises `RedisError` for other faults.
        """
        await asyncio.gather(*(self._give_back(chunk, counted=counted) for chunk in _by_stream(leases)))

    async def _give_back(self, leases: list[Lease], *, counted: bool) -> None:
        idle_ms = int(1000 * self._lease_s) + 1
        try:
            given = await scripts.give_back(self._redis, leases, idle_ms=idle_ms, counted=counted)
        except RedisError as error:
            if not never_passes(error):
                raise
            log.error("jobs cannot be given back, they wait for their leases", jobs=len(leases), error=str(error))
            return
        log.info("gave back", jobs=given)


def _by_stream(leases: Iterable[Lease]) -> list[list[Lease]]:
    streams: dict[str, list[Lease]] = {}
    for lease in leases:
        streams.setdefault(lease.jobs_key, []).append(lease)
    return [found[at : at + _BATCH] for found in streams.values() for at in range(0, len(found), _BATCH)]
