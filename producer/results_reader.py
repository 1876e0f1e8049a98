"""Follows one batch's result stream: each group once, in finish order, however often Redis goes away meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from producer.answers import Answer, read_answer, shown
from producer.connection import BLOCK_MS, Connection
from producer.errors import UnknownBatchError, UnreadableResultError
from schemas import Batch, Keys, Sealed

_READ_COUNT = 64
_IDLE_READS_BEFORE_CHECK = 2


class ResultsReader:
    """All answers read so far stay here, so that many iterators and repeated `result` calls share one read."""

    def __init__(self, connection: Connection, keys: Keys, batch: Batch) -> None:
        self._connection = connection
        self._keys = keys
        self._batch = batch
        self._last_id = b"0-0"
        self._idle_reads = 0
        self._lock = asyncio.Lock()
        self.answers: list[Answer] = []
        self.by_group: dict[int, Answer] = {}

    @property
    def complete(self) -> bool:
        """True when every group has an answer."""
        return len(self.by_group) == self._batch.num_groups

    async def wait_beyond(self, known: int) -> None:
        """Return once there are more than `known` answers, or all.

        Raises `UnreadableResultError` (again at each call), `UnknownBatchError` once the batch is gone from Redis.
        """
        while len(self.answers) <= known and not self.complete:
            async with self._lock:
                if len(self.answers) <= known and not self.complete:
                    await self._wait_for_entries()

    async def read_available(self) -> None:
        """Take what the stream holds now."""
        async with self._lock:
            while not self.complete and await self._read(block_ms=None):
                pass

    async def count_done(self) -> int:
        """Groups that have an answer, by the batch's ledger: one small read."""
        if self.complete:
            return self._batch.num_groups
        done, groups = await self._ledger_counts()
        if not groups:
            raise self._gone("its results expired or were deleted")
        if not done.isdigit():
            raise UnreadableResultError(self._batch.batch_id, "ledger", f"done is {done[:20]!r}", done)
        return int(done)

    async def _wait_for_entries(self) -> None:
        if await self._read(block_ms=BLOCK_MS):
            self._idle_reads = 0
            return
        self._idle_reads += 1
        if self._idle_reads % _IDLE_READS_BEFORE_CHECK != 0 or await self.count_done() < self._batch.num_groups:
            return
        if not await self._read(block_ms=None):  # what the ledger counts was in the stream before it was counted
            raise self._gone(f"{len(self.by_group)} of {self._batch.num_groups} results are left, none will come")

    async def _read(self, block_ms: int | None) -> bool:
        """Take the next entries. Nothing is awaited between their arrival and their being kept."""
        key = self._keys.results(self._batch.batch_id)
        reply: Any = await self._connection.call(
            "read results", lambda redis: redis.xread({key: self._last_id}, count=_READ_COUNT, block=block_ms)
        )
        entries: list[tuple[bytes, dict[bytes, bytes]]] = reply[0][1] if reply else []
        for entry, fields in entries:
            self._take(entry, fields)
        return bool(entries)

    def _take(self, entry: bytes, fields: dict[bytes, bytes]) -> None:
        answer = read_answer(self._batch, entry, fields)
        if isinstance(answer, Sealed):
            if not self.complete:
                problem = f"sealed with {len(self.by_group)} of {self._batch.num_groups} groups"
                raise UnreadableResultError(self._batch.batch_id, shown(entry), problem)
        elif answer.group not in self.by_group:
            self.by_group[answer.group] = answer
            self.answers.append(answer)
        self._last_id = entry

    async def _ledger_counts(self) -> tuple[bytes, bytes]:
        key = self._keys.ledger(self._batch.batch_id)
        counts: Any = await self._connection.call("read", lambda redis: redis.hmget(key, ["done", "groups"]))
        return counts[0] or b"0", counts[1] or b""

    def _gone(self, problem: str) -> UnknownBatchError:
        return UnknownBatchError(self._batch.batch_id, self._keys.policy, f"{problem}; submit it again")
