"""The answers to a session's turns, or what is wrong with each, as Redis has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from redis.asyncio import Redis

from rollstream.schemas import Batch, GroupError, GroupResult, Keys, Sealed
from rollstream.schemas.entry_id import BEFORE_ALL
from rollstream.schemas.field_values import count_of
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.wire.trainers.sessions import SessionTurn
from rollstream.transport.redis.faults import code_of

from ..batches.ledger import described
from ..batches.read_answers import Answer, read_answer
from ..errors import UnknownBatchError, UnreadableResultError
from ..redis_io.connection import Connection
from .errors import TurnError, TurnFailedError, TurnGoneError, TurnUnfinishedError

_AT_ONCE = 16
"""Turns whose answers are read at once."""
_ENTRIES = 8
"""A batch with one group has two; more, if somebody else wrote some."""
_FIELDS = [
    LedgerField.DIGEST,
    LedgerField.DESCRIPTION,
    LedgerField.GROUPS,
    LedgerField.QUEUED,
    LedgerField.DONE,
]

Found: TypeAlias = GroupResult | TurnError
"""A turn's answer, or why it has none that can be used."""


async def read_answers(
    connection: Connection, keys: Keys, session: str, turns: Sequence[SessionTurn]
) -> AsyncIterator[tuple[SessionTurn, Found]]:
    """Each turn in order, with its answer. Raises `RedisUnavailableError`."""
    for start in range(0, len(turns), _AT_ONCE):
        some = turns[start : start + _AT_ONCE]
        calls = [partial(_read, keys=keys, turn=turn) for turn in some]
        replies = await asyncio.gather(*(connection.call("read a session", call) for call in calls))
        for turn, (ledger, entries) in zip(some, replies, strict=True):
            yield turn, _found(keys, session, turn, ledger, entries)


async def _read(redis: Redis, keys: Keys, turn: SessionTurn) -> tuple[Any, Any]:
    """The fields of the turn's ledger, and the first entries of its results; None where something else has the key."""
    results = keys.results(turn.batch_id)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hmget(keys.ledger(turn.batch_id), _FIELDS)
        pipe.xread({results: str(BEFORE_ALL)}, count=_ENTRIES)
        ledger, entries = await pipe.execute(raise_on_error=False)
    for reply in (ledger, entries):
        if isinstance(reply, Exception) and code_of(reply) != "WRONGTYPE":
            raise reply
    return (
        None if isinstance(ledger, Exception) else ledger,
        None if isinstance(entries, Exception) else (entries[0][1] if entries else []),
    )


def _found(keys: Keys, session: str, turn: SessionTurn, ledger: Any, entries: Any) -> Found:
    why = _missing(turn, ledger, entries)
    if why:
        return TurnGoneError(session, keys.policy, turn.completion(), turn.request_id, why)
    _, description, groups, _, done = ledger
    try:
        answer = _answer(keys, turn, description, groups, entries)
    except (UnknownBatchError, UnreadableResultError) as error:
        return TurnGoneError(session, keys.policy, turn.completion(), turn.request_id, f"cannot be read ({error})")
    if isinstance(answer, GroupResult):
        return answer
    if isinstance(answer, GroupError):
        code, message = answer.code, answer.message
        return TurnFailedError(session, keys.policy, turn.completion(), turn.request_id, code, message)
    if count_of(done or b"0") != 0:
        return TurnGoneError(session, keys.policy, turn.completion(), turn.request_id, "has lost its results")
    return TurnUnfinishedError(session, keys.policy, turn.completion(), turn.request_id)


def _missing(turn: SessionTurn, ledger: Any, entries: Any) -> str:
    """What keeps the turn from ever being answered; empty if it was queued, and is or will be."""
    if ledger is None or entries is None:
        return "cannot be read (something else wrote the key of its batch)"
    digest, _, groups, queued, _ = ledger
    if digest is None:
        return "was never queued, or its results are gone"
    if digest != turn.digest.encode():
        return "belongs to other content by now"
    if not entries and queued != groups:
        return "was never queued"
    return ""


def _answer(
    keys: Keys, turn: SessionTurn, description: bytes | None, groups: bytes | None, entries: Any
) -> Answer | None:
    """Raises `UnknownBatchError`, `UnreadableResultError`."""
    batch = described(keys, turn.batch_id, description, groups)
    if not isinstance(batch, Batch):
        raise UnreadableResultError(turn.batch_id, "ledger", "is a batch of rows to score")
    unreadable: UnreadableResultError | None = None
    for entry, fields in entries:
        try:
            answer = read_answer(batch, entry, fields)
        except UnreadableResultError as error:
            unreadable = unreadable or error
            continue
        if not isinstance(answer, Sealed):
            return answer
    if unreadable is not None:
        raise unreadable
    return None
