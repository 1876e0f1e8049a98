"""A turn that is submitted through a session: first it is noted, then its batch is queued; each may be repeated."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from rollstream.schemas import GenerationConfig, Turn
from rollstream.schemas.hashes.sessions import SessionField
from rollstream.schemas.wire.trainers.sessions import SessionTurn

from ..batches.handle import BatchHandle
from ..batches.submission import Submission
from ..batches.submit_prompts import Making, submit_prompts
from ..errors import ArgumentError, BatchCancelledError, BatchConflictError, ProducerError
from ..images.upload import keep_longer
from ..order.prompt_lengths import PromptLengths
from ..queue_errors import TooLargeForRedisError
from ..redis_io.connection import Connection
from . import scripts
from .arguments import Parent, parent_of
from .errors import NoSuchTurnError, RequestConflictError, SessionLostError, UnreadableSessionError
from .known_turns import KnownTurns
from .scripts import Appended, Kept

_REFUSALS = (BatchConflictError, BatchCancelledError, TooLargeForRedisError)
"""Redis' answers after which a batch will not be queued."""
_AT_ONCE = 16
"""Turns whose results are renewed at once."""
_MOST_UNSEEN = 3
"""So often a request may be noted already and not among the turns; another process may just have taken it back."""

log = logging.getLogger("rollstream")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call of a session's `submit`."""

    config: GenerationConfig
    request_id: str
    batch_id: str
    note: bytes
    make: Callable[[Turn | None], Awaitable[Making]]
    """Makes what makes the batch that goes on from this turn."""


class _Moved(Exception):
    """Raised when another turn came meanwhile, and this one goes on from the last."""


class _Repeated(_Moved):
    """Raised when the other is of the same request, so the next read of the session has it."""


class TurnWriter:
    """Submits the turns of one session. It holds nothing of its own but what it knows of them."""

    def __init__(self, *, connection: Connection, kept: Kept, known: KnownTurns, lengths: PromptLengths | None) -> None:
        self._connection = connection
        self._kept = kept
        self._known = known
        self._lengths = lengths

    async def submit(self, asked: Asked, continue_of: Parent) -> BatchHandle:
        """Raises what `Session.submit` raises."""
        unseen = 0
        while unseen < _MOST_UNSEEN:
            parent, expected = await self._parent(asked, continue_of)
            try:
                return await self._submit(asked, parent, expected)
            except _Moved as moved:
                unseen = unseen + 1 if isinstance(moved, _Repeated) else 0
        field, problem = SessionField.of(asked.batch_id), "names a turn that is not there"
        raise UnreadableSessionError(self._kept.name, self._kept.keys.policy, field, problem)

    async def _parent(self, asked: Asked, continue_of: Parent) -> tuple[Turn | None, int | None]:
        """The turn it goes on from, and how many turns there must be for that."""
        if continue_of != "last":
            parent = parent_of("continue_of", continue_of)
            if parent is not None and parent.group != 0:
                raise self._none(str(parent), "is no turn of a session: those are batches of one prompt")
            return parent, None
        known = await self._known.read()
        turns, number = known.turns, known.numbers.get(asked.batch_id)
        if number is not None:  # a repeat goes on from what the first one did
            return turns[number].parent, None
        if not turns:
            raise self._none("the last turn", "is not there: the session has none; leave continue_of out")
        if turns[-1].samples != 1:
            rule = f"the last turn has {turns[-1].samples} completions: name one, as Turn or (batch_id, 0, sample)"
            raise ArgumentError("continue_of", continue_of, rule)
        return turns[-1].completion(), len(turns)

    def _none(self, turn: str, problem: str) -> NoSuchTurnError:
        return NoSuchTurnError(self._kept.name, self._kept.keys.policy, turn, problem)

    async def _submit(self, asked: Asked, parent: Turn | None, expected: int | None) -> BatchHandle:
        make, token, noted = await asked.make(parent), uuid.uuid4().hex, list[Appended]()
        outages = self._connection.outages

        def marked(batch_id: str) -> Submission:
            made, kept = make(batch_id), self._kept
            images = replace(made.images, keep_s=kept.images_kept_for)
            return replace(made, run=kept.name, keep_s=kept.results_kept_for, images=images)

        async def note(submission: Submission) -> None:
            turn = _turn(asked, submission, parent)
            noted.append(await self._note(turn, token, expected))

        try:
            handle = await submit_prompts(
                self._connection, self._kept.keys, marked, asked.config, asked.batch_id, note, self._lengths
            )
        except _REFUSALS as error:
            await self._taken_back_quietly(noted)
            if isinstance(error, BatchConflictError):
                raise self._conflict(asked.request_id) from error
            raise
        if self._connection.outages != outages:
            await self._note_again(noted[0].turn, token)
        await self._renew(noted[0])
        return handle

    async def _note(self, turn: SessionTurn, token: str, expected: int | None) -> Appended:
        append = partial(scripts.append, kept=self._kept, turn=turn, token=token, expected=expected)
        appended = await self._connection.call("submit a turn", append)
        if appended.what == "moved":
            raise _Moved
        if (appended.turn.request_id, appended.turn.digest) != (turn.request_id, turn.digest):
            if expected is not None:  # the same request was submitted meanwhile, by another process
                raise _Repeated
            raise self._conflict(turn.request_id)
        return appended

    async def _note_again(self, turn: SessionTurn, token: str) -> None:
        """Redis was away in between: it may have lost the turn, and has its batch."""
        try:
            await self._note(turn, token, None)
        except NoSuchTurnError:
            raise SessionLostError(self._kept.name, self._kept.keys.policy, turn.batch_id) from None

    async def _renew(self, noted: Appended) -> None:
        """Give results and images their full time: those of the turn if it was submitted before, and of all if they
        are due. An image that is gone stays gone, and the worker that wants it says so.
        """
        turns: tuple[SessionTurn, ...] = (noted.turn,) if noted.what == "again" else ()
        if noted.is_due:
            turns = (await self._known.read()).turns
        images = [ref for one in turns for ref in one.images]
        await keep_longer(self._connection, self._kept.keys, images, self._kept.images_kept_for)
        for start in range(0, len(turns), _AT_ONCE):
            some = turns[start : start + _AT_ONCE]
            calls = [partial(scripts.keep_results, kept=self._kept, turn=one) for one in some]
            await asyncio.gather(*(self._connection.call("submit a turn", call) for call in calls))

    async def _taken_back_quietly(self, noted: list[Appended]) -> None:
        """What fails is found later, as a turn that was never queued."""
        for one in noted:
            if one.what != "appended":
                continue
            call = partial(scripts.take_back, kept=self._kept, turn=one.turn, number=one.number)
            try:
                await self._connection.call("submit a turn", call)
            except ProducerError as error:
                log.warning("turn %s of session %s stays: %s", one.turn.request_id, self._kept.name, error)

    def _conflict(self, request_id: str) -> RequestConflictError:
        return RequestConflictError(self._kept.name, self._kept.keys.policy, request_id)


def _turn(asked: Asked, submission: Submission, parent: Turn | None) -> SessionTurn:
    return SessionTurn(
        request_id=asked.request_id,
        batch_id=asked.batch_id,
        digest=submission.digest,
        at=time.time(),
        samples=asked.config.num_return_sequences,
        parent=parent,
        note=asked.note,
        images=next(iter(submission.images.of_prompts), ()),
    )
