"""Follow one batch's result stream: each group once, in finish order, however often Redis is away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from redis.asyncio import Redis

from rollstream.schemas import Batch, GroupError, Keys, Sealed
from rollstream.schemas.entry_id import BEFORE_ALL
from rollstream.schemas.hashes.ledger import LedgerCounts, LedgerField
from rollstream.schemas.wire.scores import Description
from rollstream.transport.redis.client_settings import BLOCK_MS

from ..errors import UnknownBatchError, UnreadableResultError
from ..queue_errors import LostJobsError
from ..redis_io.connection import Connection
from ..redis_io.shared_reads import Entries
from .batch_spans import ReadSpan
from .cut_groups import cut_groups
from .lost_jobs import JobsLeft
from .read_answers import AnyAnswer, Fields, shown
from .submit_jobs import Resubmission

_MOST_ENTRIES, _READ_BYTES = 64, 2**20
"""Limits of one read, which must arrive within the socket's timeout even on a slow connection."""
_IDLE_READS_BEFORE_CHECK = 2


A = TypeVar("A", bound=AnyAnswer)


class ResultsReader(Generic[A]):
    """Keeps all answers read so far, so that many iterators and repeated `result` calls share one read.

    `read` makes an answer of an entry's id and fields.

    Everything changes while `_lock` is held, by the call that has the turn to read: `answers` and `by_group` only
    grow, and `_last_id` goes on with each entry that was kept, so a call that is cancelled loses nothing. Others
    read them at any time.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        keys: Keys,
        batch: Description,
        read: Callable[[bytes, Fields], A | Sealed],
        again: Resubmission[Any],
        was_queued: bool = False,
    ) -> None:
        """`again`: what queues the batch again if a failover lost it; `was_queued`: as for `JobsLeft`."""
        self._again = again
        self._connection = connection
        self._keys = keys
        self._batch = batch
        self._read_answer = read
        self._last_id = str(BEFORE_ALL).encode()
        self._idle_reads = 0
        self._count = 1
        self._sealed_by: bytes | None = None
        self._unreadable: UnreadableResultError | None = None
        self._lock = asyncio.Lock()
        self._jobs = JobsLeft(connection=connection, keys=keys, batch=batch, was_queued=was_queued)
        self.answers: list[A] = []
        self.by_group: dict[int, A] = {}
        self._span = ReadSpan(keys=keys, batch=batch, answered=lambda: len(self.by_group))

    @property
    def complete(self) -> bool:
        """True when every group has an answer."""
        return len(self.by_group) == self._batch.num_groups

    async def wait_beyond(self, known: int) -> None:
        """Return once there are more than `known` answers, or all.

        An unreadable entry is skipped. Only if nothing more can come and a group is still unanswered, the first such
        entry is raised as `UnreadableResultError`, at each call. Raises `UnknownBatchError` if the batch is gone from
        Redis, `LostJobsError` if its jobs are.
        """
        with self._span.reading():
            while len(self.answers) <= known and not self.complete:
                async with self._lock:
                    if len(self.answers) <= known and not self.complete:
                        await self._wait_for_entries()

    async def read_available(self) -> None:
        """Read all that the stream has now. Raises `UnreadableResultError` as `wait_beyond` does."""
        with self._span.reading():
            await self._read_available()

    async def _read_available(self) -> None:
        async with self._lock:
            if not await self._read_all() and self._sealed_by is not None:
                await self._read_again()

    async def count_done(self) -> int:
        """Groups that have an answer, by the batch's ledger: one small read."""
        if self.complete:
            return self._batch.num_groups
        done, groups = await self._ledger_counts()
        if not groups:
            raise self._gone("its results expired or were deleted")
        try:
            return LedgerCounts.of(done, groups).done
        except ValueError as error:
            raise UnreadableResultError(self._batch.batch_id, "ledger", str(error), done or b"") from None

    async def _wait_for_entries(self) -> None:
        try:
            await self._wait_once()
        except (UnknownBatchError, LostJobsError):
            if not await self._again.after_failover():
                raise
            self._jobs.ask_again()

    async def _wait_once(self) -> None:
        if await self._read(block_ms=BLOCK_MS if self._sealed_by is None else None):
            self._idle_reads = 0
            return
        if self._sealed_by is not None:
            await self._read_again()
            return
        self._idle_reads += 1
        if self._idle_reads % _IDLE_READS_BEFORE_CHECK != 0:
            return
        if self._has_enough:
            await self._cut_rest()
        if await self.count_done() < self._batch.num_groups:
            if await self._jobs.are_lost() and not await self._read(block_ms=None):
                done, forgotten = len(self.by_group), self._jobs.forgotten
                raise LostJobsError(self._batch.batch_id, self._keys.policy, done, self._batch.num_groups, forgotten)
            return
        if not await self._read(block_ms=None):  # an answer is in the stream before the ledger counts it
            await self._read_again()

    @property
    def _has_enough(self) -> bool:
        """Whether as many groups with completions are here as the batch wanted."""
        wanted = self._batch.first_groups if isinstance(self._batch, Batch) else None
        return wanted is not None and sum(not isinstance(answer, GroupError) for answer in self.answers) >= wanted

    async def _cut_rest(self) -> None:
        """The worker that published the last group that was wanted cuts the others. It may have died on the way."""
        missing = [group for group in range(self._batch.num_groups) if group not in self.by_group]
        await cut_groups(self._connection, self._keys, self._batch, missing, only_if_enough=True)

    async def _read_again(self) -> None:
        """Read the stream from its start, when nothing more can come and groups are missing.

        A failover may lose answers that were read; those that replace them have smaller ids if the clock of the new
        primary is behind. Raises `UnreadableResultError`, `UnknownBatchError` if that brings not all groups.
        """
        self._last_id = str(BEFORE_ALL).encode()
        if await self._read_all():
            return
        if self._sealed_by is not None:
            raise self._incomplete(self._sealed_by)
        if self._unreadable is not None:
            raise self._unreadable.with_traceback(None)
        raise self._gone(f"{len(self.by_group)} of {self._batch.num_groups} results are left, none will come")

    async def _read_all(self) -> bool:
        """Read the stream to its end. Returns whether every group has an answer then."""
        while not self.complete and await self._read(block_ms=None):
            pass
        return self.complete

    async def _read(self, block_ms: int | None) -> bool:
        """Read the next entries. There is no await between their arrival and keeping them."""
        entries = await (self._now() if block_ms is None else self._soon())
        for entry, fields in entries:
            if self.complete:
                break
            self._last_id = entry
            self._take(entry, fields)
        if self.complete:
            self._again.forget()
        return bool(entries)

    async def _soon(self) -> Entries:
        count, self._count = self._count, 1  # if so many do not arrive, the next attempt asks for one
        shared = self._connection.reads(self._keys.partition(self._batch.batch_id))
        entries = await shared.entries(self._key, self._last_id, count, is_patient=self._idle_reads > 0)
        self._count = _next_count(count, entries)
        return entries

    async def _now(self) -> Entries:
        return await self._connection.call("read results", self._entries)

    async def _entries(self, redis: Redis) -> Entries:
        count, self._count = self._count, 1
        reply: Any = await redis.xread({self._key: self._last_id}, count=count)
        entries: Entries = reply[0][1] if reply else []
        self._count = _next_count(count, entries)
        return entries

    @property
    def _key(self) -> str:
        return self._keys.results(self._batch.batch_id)

    def _take(self, entry: bytes, fields: dict[bytes, bytes]) -> None:
        try:
            answer = self._read_answer(entry, fields)
        except UnreadableResultError as error:
            self._unreadable = self._unreadable or error
            return
        if isinstance(answer, Sealed):
            self._sealed_by = entry
        elif answer.group not in self.by_group:
            self.by_group[answer.group] = answer
            self.answers.append(answer)

    def _incomplete(self, sealed_by: bytes) -> UnreadableResultError:
        if self._unreadable is not None:
            return self._unreadable.with_traceback(None)  # raised again at each call, and its traceback must not grow
        problem = f"sealed with {len(self.by_group)} of {self._batch.num_groups} groups"
        return UnreadableResultError(self._batch.batch_id, shown(sealed_by), problem)

    async def _ledger_counts(self) -> tuple[bytes | None, bytes | None]:
        key, fields = self._keys.ledger(self._batch.batch_id), [LedgerField.DONE, LedgerField.GROUPS]
        counts: Any = await self._connection.call("count results", lambda redis: redis.hmget(key, fields))
        return counts[0], counts[1]

    def _gone(self, problem: str) -> UnknownBatchError:
        return UnknownBatchError(self._batch.batch_id, self._keys.policy, f"{problem}; submit it again")


def _next_count(count: int, entries: Entries) -> int:
    """How many entries to ask for next, after `count` were asked for and these came: twice as many, if they fit."""
    sizes = [sum(map(len, fields.values())) for _, fields in entries]
    if not sizes:
        return count
    return max(1, min(2 * count, _MOST_ENTRIES, _READ_BYTES // max(*sizes, 1)))
