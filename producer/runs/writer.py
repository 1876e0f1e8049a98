"""What one opening writes to its run: intents, consumed batches, the cursor. Each write asks whether it still may."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

from rollstream.schemas import ScoreDescription, decode
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.hashes.runs import RunField
from rollstream.schemas.wire.scores import Description
from rollstream.schemas.wire.trainers.runs import Intent
from rollstream.transport.redis.faults import fault_of

from ..batches.submission import AnySubmission
from ..errors import BatchConflictError, ProducerError, RedisUnavailableError
from ..redis_io.connection import Connection
from ..run_errors import BatchConsumedError, BatchNotOutstandingError, RunLostError
from ..staleness.staleness_gate import StalenessGate
from . import scripts
from .book import Book, Entry, RunHandle
from .counting import count
from .scripts import Held, Outcome, Saved

_UNKNOWN = "may not be queued: its submit ended before Redis had answered"

log = logging.getLogger("rollstream")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """Batches that a trainer consumes or drops at once, and its cursor, if that moves."""

    batch_ids: tuple[str, ...]
    batches: tuple[object, ...]
    """What it has named them by: rollouts are counted by their rows."""
    how: RunField
    cursor: bytes | None

    @property
    def name(self) -> tuple[frozenset[str], RunField]:
        """A second try has the same."""
        return frozenset(self.batch_ids), self.how


class RunWriter:
    """The writes of one opening. All raise `RunTakenError`, `RunLostError` and `RedisUnavailableError`.

    `book`, `gate`, `cursor` and `cursor_version` change after Redis has confirmed a write, in the client's event loop;
    `_turn` is held by the one call that consumes a batch or moves the cursor. Where its reply is lost, or its caller
    stops waiting, nobody knows whether it was written. So each such write names itself and the last one that is known
    (`_last`), and Redis writes it after no other: the next write is told which one of the `_unknown` was written, and
    none of them is written later. `_untold` are batches that are settled, and whose callers do not know it.
    """

    def __init__(
        self, *, connection: Connection, held: Held, book: Book, cursor: bytes | None, cursor_version: int
    ) -> None:
        self.held = held
        self.book = book
        self.cursor = cursor
        self.cursor_version = cursor_version
        self.gate: StalenessGate | None = None
        self._connection = connection
        self._turn = asyncio.Lock()
        self._last = ""
        self._unknown: dict[str, tuple[Saved, Settling | None]] = {}
        self._untold: set[tuple[frozenset[str], RunField]] = set()

    async def intend(
        self, submission: AnySubmission[Any], number: int, *, admitted: int | None = None, note: bytes = b""
    ) -> Entry:
        """Note that this batch is to be queued; returns its place among the outstanding ones, new or not.

        Raises `BatchConsumedError`, and `BatchConflictError` if a batch of other content is outstanding under its id.
        """
        batch = submission.batch
        intent = Intent(
            batch_id=batch.batch_id,
            number=number,
            digest=submission.digest,
            samples=batch.num_groups * _samples_of_each(batch),
            intended_at=time.time(),
            admitted=admitted,
            note=note,
        )
        return await self._intend("submit", intent)

    async def _intend(self, what: str, intent: Intent) -> Entry:
        """Write an intent. Where nobody knows whether it was written, the batch is outstanding all the same."""
        batch_id = intent.batch_id
        try:
            outcome, there = await self._connection.call(what, partial(scripts.intend, held=self.held, intent=intent))
        except BaseException as error:
            if isinstance(error, RedisUnavailableError) or not isinstance(error, ProducerError):
                self.book.entries.setdefault(batch_id, Entry(intent=intent, missing=_UNKNOWN, is_confirmed=False))
            raise
        if outcome == "settled":
            raise self._consumed(batch_id)
        if outcome == "again":
            digest, intent = intent.digest, decode(there, Intent)
            if intent.digest != digest:
                raise BatchConflictError(batch_id)
        entry = self.book.entries.setdefault(batch_id, Entry(intent=intent, missing="is not queued yet"))
        entry.intent, entry.is_confirmed = intent, True
        return entry

    async def withdraw(self, entry: Entry) -> None:
        """Take back an intent that this opening wrote and Redis' answer made void."""
        intent = entry.intent
        await self._connection.call("submit", partial(scripts.withdraw, held=self.held, intent=intent))
        self.book.entries.pop(intent.batch_id, None)

    async def keep(self, entry: Entry, handle: RunHandle) -> None:
        """The results of a batch that may have been submitted elsewhere before stay until it is consumed."""
        intent, kept_for = entry.intent, self.held.kept_for
        hold = partial(
            scripts.hold, keys=self.held.keys, batch_id=handle.batch_id, digest=intent.digest, kept_for=kept_for
        )
        await self._connection.call("submit", hold)

    async def settle(self, settling: Settling) -> None:
        """Batches are consumed or dropped, and the cursor moves, if one is given: all or nothing.

        Raises `BatchConsumedError`, `BatchNotOutstandingError`.
        """
        async with self._turn:
            await self._confirm(settling.batch_ids)
            while settling.name not in self._untold:
                outcome = await self._write("consume a batch", self._saved(settling.cursor, settling), settling)
                if outcome.what == "before":
                    raise self._consumed(outcome.which)
                if outcome.what == "unknown":
                    await self._refuse(outcome.which)
                if outcome.what == "written":
                    self._untold.add(settling.name)
            if settling.cursor not in (None, self.cursor):  # an earlier try was written, with another one
                await self._save(settling.cursor)
            await self.release()
            self._untold.discard(settling.name)  # only now: the caller may stop waiting before

    async def save(self, cursor: bytes | None, *, close: bool = False) -> None:
        """Move the cursor without a batch, if one is given, or close the run."""
        async with self._turn:
            await self.release()
            await self._save(cursor, close=close)

    async def check(self) -> None:
        """Ask whether the run is still this trainer's."""
        async with self._turn:
            while (await self._write("save a run", replace(self._saved(None), gate=None))).what != "written":
                pass

    async def _confirm(self, batch_ids: tuple[str, ...]) -> None:
        """Redis settles only batches that it has: intents of which that is not known are written again."""
        entries = self.book.entries
        for entry in [entries[one] for one in batch_ids if one in entries and not entries[one].is_confirmed]:
            await self._intend("consume a batch", entry.intent)

    async def _save(self, cursor: bytes | None, *, close: bool = False) -> None:
        while (await self._write("save a run", self._saved(cursor), close=close)).what != "written":
            pass

    async def _write(
        self, what: str, saved: Saved, settling: Settling | None = None, *, close: bool = False
    ) -> Outcome:
        """Write, and note what is written then: this, or an earlier write whose reply was lost."""
        self._unknown[saved.call] = saved, settling
        if settling is None:
            script = partial(scripts.save, held=self.held, saved=saved, close=close)
        else:
            ids, how = settling.batch_ids, settling.how
            script = partial(scripts.settle_batches, held=self.held, batch_ids=ids, how=how, saved=saved)
        outcome: Outcome = await self._connection.call(what, script)
        if outcome.what == "written":
            self._noted(saved.call)
        elif outcome.what == "other":
            told = self._noted(outcome.which)
            if told is not None:
                self._untold.add(told.name)
        return outcome

    def _saved(self, cursor: bytes | None, settling: Settling | None = None) -> Saved:
        gate = None if self.gate is None else self.gate.copy()
        if gate is not None and settling is not None:
            self._count(gate, settling)
        return Saved(
            call=uuid.uuid4().hex,
            after=self._last,
            cursor=cursor,
            cursor_version=self.cursor_version + 1,
            gate=None if gate is None else gate.state,
            released=tuple(self.book.released),
        )

    def _noted(self, call: str) -> Settling | None:
        """Redis has this write, and none of the others of which nothing was known. Returns what it has settled."""
        if call not in self._unknown:
            fence = self.held.fence
            raise RunLostError(fence.name, self.held.keys.policy, fence.epoch, fence.epoch)
        saved, settling = self._unknown[call]
        self._unknown.clear()
        self._last = call
        if saved.cursor is not None:
            self.cursor, self.cursor_version = saved.cursor, saved.cursor_version
        del self.book.released[: len(saved.released)]
        if settling is not None:
            if self.gate is not None:
                self._count(self.gate, settling)
            for batch_id in settling.batch_ids:
                self.book.settle(batch_id, settling.how)
        return settling

    def _count(self, gate: StalenessGate, settling: Settling) -> None:
        for batch_id, batch in zip(settling.batch_ids, settling.batches, strict=True):
            entry = self.book.entries.get(batch_id)
            if entry is not None:
                count(gate, entry.intent, settling.how, batch)

    async def release(self) -> None:
        """Let results of consumed batches expire as usual. A fault of Redis only puts it off: the batch is consumed."""
        for batch_id in list(self.book.unreleased):
            release = partial(scripts.release, keys=self.held.keys, batch_id=batch_id, consumer=self.held.fence.name)
            try:
                await self._connection.call("consume a batch", release)
            except RedisUnavailableError as error:
                log.warning("results of batch %s stay until the next call: %s", batch_id, error)
                if fault_of(error.__cause__).passes:
                    return  # Redis is away, and each of the others would wait as long
                continue  # it refused this batch
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


def _samples_of_each(batch: Description) -> int:
    """What counts as a group's samples: its completions, or a row that is scored."""
    if isinstance(batch, ScoreDescription):
        return 1
    return batch.config.first_k or batch.config.num_return_sequences
