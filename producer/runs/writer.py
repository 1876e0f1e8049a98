"""What one opening writes to its run: intents, consumed batches, the cursor. Each write asks whether it still may."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from functools import partial
from typing import NoReturn

from rollstream.schemas import decode
from rollstream.schemas.ledger import LedgerField
from rollstream.schemas.runs import RunField
from rollstream.schemas.wire.runs import GateState, Intent

from ..batches.handle import BatchHandle
from ..batches.submission import Submission
from ..errors import BatchConflictError, ProducerError, RedisUnavailableError
from ..redis_io.connection import Connection
from ..run_errors import BatchConsumedError, BatchNotOutstandingError
from . import scripts
from .book import Book, Entry
from .scripts import Held, Saved

log = logging.getLogger("rollstream")


class RunWriter:
    """The writes of one opening. All raise `RunTakenError`, `RunLostError` and `RedisUnavailableError`.

    `book`, `cursor` and `cursor_version` change after Redis has confirmed a write, in the client's event loop; `_turn`
    is held by the one call that consumes a batch or moves the cursor.
    """

    def __init__(
        self, *, connection: Connection, held: Held, book: Book, cursor: bytes | None, cursor_version: int
    ) -> None:
        self.held = held
        self.book = book
        self.cursor = cursor
        self.cursor_version = cursor_version
        self._connection = connection
        self._turn = asyncio.Lock()

    async def intend(
        self, submission: Submission, number: int, *, admitted: int | None = None, note: bytes = b""
    ) -> Entry:
        """Note that this batch is to be queued; returns its place among the outstanding ones, new or not.

        Raises `BatchConsumedError`, and `BatchConflictError` if a batch of other content is outstanding under its id.
        """
        batch = submission.batch
        intent = Intent(
            batch_id=batch.batch_id,
            number=number,
            digest=submission.digest,
            samples=batch.num_groups * (batch.config.first_k or batch.config.num_return_sequences),
            intended_at=time.time(),
            admitted=admitted,
            note=note,
        )
        outcome, there = await self._connection.call("submit", partial(scripts.intend, held=self.held, intent=intent))
        if outcome == "settled":
            raise self._consumed(batch.batch_id)
        if outcome == "again":
            intent = decode(there, Intent)
            if intent.digest != submission.digest:
                raise BatchConflictError(batch.batch_id)
        return self.book.entries.setdefault(batch.batch_id, Entry(intent=intent, missing="is not queued yet"))

    async def withdraw(self, entry: Entry) -> None:
        """Take back an intent that this opening wrote and Redis' answer made void."""
        intent = entry.intent
        await self._connection.call("submit", partial(scripts.withdraw, held=self.held, intent=intent))
        self.book.entries.pop(intent.batch_id, None)

    async def keep(self, entry: Entry, handle: BatchHandle) -> None:
        """The results of a batch that may have been submitted elsewhere before stay until it is consumed."""
        intent, kept_for = entry.intent, self.held.kept_for
        hold = partial(
            scripts.hold, keys=self.held.keys, batch_id=handle.batch_id, digest=intent.digest, kept_for=kept_for
        )
        await self._connection.call("submit", hold)

    async def settle(self, batch_id: str, how: RunField, cursor: bytes | None, gate: GateState | None) -> None:
        """The batch is consumed or dropped, and the cursor moves, if one is given: both or neither.

        Raises `BatchConsumedError`, `BatchNotOutstandingError`.
        """
        async with self._turn:
            saved = self._saved(cursor, gate)
            settle = partial(scripts.settle_batch, call=uuid.uuid4().hex, how=how, saved=saved)
            what = "consume a batch"
            done = await self._connection.call(what, lambda redis: settle(redis, self.held, batch_id))
            if done == "before":
                raise self._consumed(batch_id)
            if done == "unknown":
                await self._refuse(batch_id)
            self._noted(saved)
            self.book.settle(batch_id, how)
            await self.release()

    async def save(self, cursor: bytes | None, gate: GateState | None, *, close: bool = False) -> None:
        """Move the cursor without a batch, if one is given, or close the run."""
        async with self._turn:
            await self.release()
            saved = self._saved(cursor, gate)
            await self._connection.call("save a run", partial(scripts.save, held=self.held, saved=saved, close=close))
            self._noted(saved)

    def _saved(self, cursor: bytes | None, gate: GateState | None) -> Saved:
        version = self.cursor_version + 1
        return Saved(cursor=cursor, cursor_version=version, gate=gate, released=tuple(self.book.released))

    def _noted(self, saved: Saved) -> None:
        if saved.cursor is not None:
            self.cursor, self.cursor_version = saved.cursor, saved.cursor_version
        del self.book.released[: len(saved.released)]

    async def release(self) -> None:
        """Let results of consumed batches expire as usual. A fault of Redis only puts it off: the batch is consumed."""
        for batch_id in list(self.book.unreleased):
            release = partial(scripts.release, keys=self.held.keys, batch_id=batch_id, consumer=self.held.fence.name)
            try:
                await self._connection.call("consume a batch", release)
            except RedisUnavailableError as error:
                log.warning("results of batch %s stay until the next call: %s", batch_id, error)
                return
            self.book.unreleased.remove(batch_id)
            self.book.released.append(batch_id)

    async def _refuse(self, batch_id: str) -> NoReturn:
        key = self.held.keys.ledger(batch_id)
        field = LedgerField.CONSUMED
        if await self._connection.call("consume a batch", lambda redis: redis.hexists(key, field)):
            raise self._consumed(batch_id)
        raise BatchNotOutstandingError(self.held.fence.name, self.held.keys.policy, batch_id)

    def _consumed(self, batch_id: str) -> BatchConsumedError:
        return BatchConsumedError(self.held.fence.name, self.held.keys.policy, batch_id)


async def withdrawn_quietly(writer: RunWriter, entry: Entry) -> None:
    """The same as `withdraw`; what fails is found as not queued at the next opening."""
    try:
        await writer.withdraw(entry)
    except ProducerError as error:
        log.warning("the intent of batch %s could not be taken back: %s", entry.intent.batch_id, error)
