"""Which sessions there are and how far each turn of one is, for operators. What answers say is not looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import Keys, NameRefusedError
from rollstream.schemas.entry_id import BEFORE_ALL
from rollstream.schemas.field_values import count_of, seconds_of
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.hashes.sessions import SessionField
from rollstream.schemas.keys import check_name
from rollstream.schemas.wire.entry_fields import KIND
from rollstream.schemas.wire.trainers.sessions import SessionTurn
from rollstream.transport.redis.faults import code_of

from ..redis_io.connection import Connection
from .errors import UnknownSessionError
from .known_turns import KnownTurns

MOST_SESSIONS = 1000
"""The most sessions that one look reads, those of the newest turns."""
_PAGE = 50
_ANSWERS = 8
"""Answers that are read at once: some are megabytes."""
_ERROR = b"error"
"""The `KIND` of an entry of results that is an error."""
_FIELDS = [SessionField.COUNT, SessionField.BYTES, SessionField.OPENED_AT, SessionField.SEEN_AT, SessionField.KEPT_FOR]
_OF_BATCH = [LedgerField.DIGEST, LedgerField.GROUPS, LedgerField.DONE, LedgerField.QUEUED]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSeen:
    """A session at one moment; None where a field says nothing that makes sense."""

    name: str
    turns: int | None
    nbytes: int | None
    opened_at: float | None
    seen_at: float | None
    kept_for: int | None
    """Seconds after its last turn."""
    now: float
    """Redis' clock, in Unix seconds."""

    @property
    def silent_s(self) -> float:
        """Seconds since its last turn was submitted."""
        return max(0.0, self.now - (self.seen_at or self.now))


class TurnState(StrEnum):
    """How far the batch of a turn is."""

    ANSWERED = "answered"
    """With completions, or its results are gone."""
    FAILED = "failed"
    """With an error, which is in its results."""
    UNDER_WAY = "under way"
    NOT_QUEUED = "not queued"
    """Its submit was broken off, or its results are gone."""
    OTHER = "other content"
    """Something else has its batch id by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSeen:
    """A turn at one moment."""

    number: int
    turn: SessionTurn
    parent: int | None
    """The number of the turn that it goes on from."""
    state: TurnState


async def read_sessions(redis: Redis, keys: Keys) -> list[SessionSeen]:
    """All sessions, the one with the newest turn first. Raises `RedisError`."""
    names: Any = await redis.zrevrange(keys.sessions(), 0, MOST_SESSIONS - 1)
    valid = [name for name in (one.decode("utf-8", "backslashreplace") for one in names) if _is_name(name)]
    found: list[SessionSeen] = []
    for start in range(0, len(valid), _PAGE):
        found += await _read(redis, keys, valid[start : start + _PAGE])
    return found


async def read_session(connection: Connection, keys: Keys, name: str) -> tuple[SessionSeen, list[TurnSeen]]:
    """One session, and its turns in order.

    Raises `UnknownSessionError`, `UnreadableSessionError`, `NameRefusedError`, `RedisUnavailableError`.
    """
    check_name("session", name)
    known = await KnownTurns(connection=connection, keys=keys, name=name).read()
    found = await connection.call("read a session", partial(_read, keys=keys, names=[name]))
    if not found or not known.turns:
        raise UnknownSessionError(name, keys.policy)
    turns: list[TurnSeen] = []
    for start in range(0, len(known.turns), _PAGE):
        some = known.turns[start : start + _PAGE]
        rows = await connection.call("read a session", partial(_ledgers, keys=keys, turns=some))
        for turn, row in zip(some, rows, strict=True):
            parent = None if turn.parent is None else known.numbers[turn.parent.batch_id]
            turns.append(TurnSeen(number=len(turns), turn=turn, parent=parent, state=state_of(turn, row)))
    failed = await _failed(connection, keys, [one for one in turns if one.state is TurnState.ANSWERED])
    return found[0], [replace(one, state=TurnState.FAILED) if one.number in failed else one for one in turns]


def state_of(turn: SessionTurn, row: Sequence[bytes | None] | None) -> TurnState:
    """By the fields of its batch's ledger; None: something else has the key. Pure."""
    if row is None:
        return TurnState.OTHER
    digest, groups, done, queued = row
    if digest is None:
        return TurnState.NOT_QUEUED
    if digest != turn.digest.encode():
        return TurnState.OTHER
    if count_of(done or b"0"):
        return TurnState.ANSWERED
    return TurnState.UNDER_WAY if queued is not None and queued == groups else TurnState.NOT_QUEUED


async def _failed(connection: Connection, keys: Keys, turns: Sequence[TurnSeen]) -> set[int]:
    """The numbers of those whose answer is an error."""
    found: set[int] = set()
    for start in range(0, len(turns), _ANSWERS):
        some = turns[start : start + _ANSWERS]
        batches = [keys.results(one.turn.batch_id) for one in some]
        kinds = await connection.call("read a session", partial(_kinds, results=batches))
        found |= {one.number for one, kind in zip(some, kinds, strict=True) if kind == _ERROR}
    return found


async def _kinds(redis: Redis, results: Sequence[str]) -> list[bytes | None]:
    """What kind the first entry of each stream of results is; None where there is none."""
    async with redis.pipeline(transaction=False) as pipe:
        for key in results:
            pipe.xread({key: str(BEFORE_ALL)}, count=1)
        replies = _without_others(await pipe.execute(raise_on_error=False))
    return [reply[0][1][0][1].get(KIND) if reply else None for reply in replies]


async def _read(redis: Redis, keys: Keys, names: Sequence[str]) -> list[SessionSeen]:
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hmget(keys.session(name), list(_FIELDS))
        replies: list[Any] = list(await pipe.execute(raise_on_error=False))
    seconds, micros = await redis.time()
    now = int(seconds) + int(micros) / 1e6
    rows = [(name, told) for name, told in zip(names, replies, strict=True) if isinstance(told, list) and any(told)]
    return [_seen(name, [value or b"" for value in told], now) for name, told in rows]


def _seen(name: str, told: Sequence[bytes], now: float) -> SessionSeen:
    turns, nbytes, opened_at, seen_at, kept_for = told
    return SessionSeen(
        name=name,
        turns=count_of(turns),
        nbytes=count_of(nbytes),
        opened_at=seconds_of(opened_at),
        seen_at=seconds_of(seen_at),
        kept_for=count_of(kept_for),
        now=now,
    )


async def _ledgers(redis: Redis, keys: Keys, turns: Sequence[SessionTurn]) -> list[list[bytes | None] | None]:
    async with redis.pipeline(transaction=False) as pipe:
        for turn in turns:
            pipe.hmget(keys.ledger(turn.batch_id), list(_OF_BATCH))
        return _without_others(await pipe.execute(raise_on_error=False))


def _without_others(replies: Sequence[Any]) -> list[Any]:
    """Replies, with None where something else has the key. Raises `RedisError`."""
    if failed := next((one for one in replies if isinstance(one, Exception) and code_of(one) != "WRONGTYPE"), None):
        raise failed
    return [None if isinstance(one, Exception) else one for one in replies]


def _is_name(name: str) -> bool:
    try:
        check_name("session", name)
    except NameRefusedError:
        return False
    return True
