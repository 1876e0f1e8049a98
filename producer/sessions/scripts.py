"""Typed calls of a session's scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from rollstream.schemas import Keys, SchemaError, decode, encode
from rollstream.schemas.field_values import count_of, text_of
from rollstream.schemas.hashes.sessions import MAX_SESSION_BYTES, MAX_TURNS, SessionField
from rollstream.schemas.times import LONGEST_SESSION_RETENTION_S, MEDIA_TTL_S
from rollstream.schemas.wire.trainers.sessions import SessionTurn
from rollstream.transport.redis.confirmed import confirmed
from rollstream.transport.redis.scripts import load

from .errors import NoSuchTurnError, SessionFullError, UnreadableSessionError

APPEND = load(__package__, "append.lua")
TAKE_BACK = load(__package__, "take_back.lua")
KEEP_RESULTS = load(__package__, "keep_results.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A session, and what each write to it needs."""

    keys: Keys
    name: str
    kept_for: int
    """Seconds."""
    wait: int
    """How many replicas are waited for."""

    @property
    def results_kept_for(self) -> int:
        """Seconds for which results stay: longer than the session, since they are renewed from time to time only."""
        return self.kept_for + self.kept_for // 4

    @property
    def images_kept_for(self) -> int:
        """Seconds for which the images of its turns stay."""
        return max(MEDIA_TTL_S, self.results_kept_for)

    @property
    def renewed_every(self) -> int:
        """Seconds between two times that the results of all turns get their full time; one of them may be missed."""
        return self.kept_for // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """A turn that is in the session, or what is in the way."""

    what: Literal["appended", "again", "moved"]
    number: int
    """The turn's; of `moved`: how many turns there are."""
    turn: SessionTurn
    """As it is there."""
    is_due: bool = False
    """Whether the results of all turns are to be given their full time."""


async def append(redis: Redis, kept: Kept, turn: SessionTurn, *, token: str, expected: int | None = None) -> Appended:
    """See `append.lua`; `expected`: how many turns there must be if it is new.

    Raises `NoSuchTurnError`, `SessionFullError`, `UnreadableSessionError`, `RedisError`, `UnconfirmedError`.
    """
    parent = "" if turn.parent is None else SessionField.of(turn.parent.batch_id)
    names = kept.keys.session(kept.name), kept.keys.sessions()
    head = kept.name, kept.kept_for, token, SessionField.of(turn.batch_id), parent, encode(turn)
    bounds = MAX_TURNS, MAX_SESSION_BYTES, LONGEST_SESSION_RETENTION_S, kept.renewed_every
    call = APPEND(names, [*head, "" if expected is None else expected, *bounds])
    what, *rest = await confirmed(redis, call, kept.wait)
    match what:
        case b"appended" | b"again":
            number, data, is_due = rest
            there = turn if what == b"appended" else _turn(kept, number, data)
            word: Literal["appended", "again"] = "appended" if what == b"appended" else "again"
            return Appended(what=word, number=_number(kept, number), turn=there, is_due=bool(is_due))
        case b"moved":
            return Appended(what="moved", number=int(rest[0]), turn=turn)
        case b"no_parent":
            raise NoSuchTurnError(kept.name, kept.keys.policy, str(turn.parent))
        case b"full":
            raise SessionFullError(kept.name, kept.keys.policy, int(rest[0]), int(rest[1]))
        case _:
            field = text_of(rest[0])
            raise UnreadableSessionError(kept.name, kept.keys.policy, field, "is none that a submit writes")


async def take_back(redis: Redis, kept: Kept, turn: SessionTurn, number: int) -> bool:
    """See `take_back.lua`. Raises `RedisError`."""
    args = SessionField.of(turn.batch_id), number, encode(turn)
    return bool(await TAKE_BACK([kept.keys.session(kept.name)], args).to(redis))


async def keep_results(redis: Redis, kept: Kept, turn: SessionTurn) -> bool:
    """See `keep_results.lua`. Raises `RedisError`."""
    of_batch = kept.keys.ledger, kept.keys.results, kept.keys.routing
    names = [name(turn.batch_id) for name in of_batch]
    return bool(await KEEP_RESULTS(names, [turn.digest, kept.results_kept_for]).to(redis))


def _number(kept: Kept, number: bytes) -> int:
    found = count_of(number)
    if found is None or found >= MAX_TURNS:
        raise UnreadableSessionError(kept.name, kept.keys.policy, text_of(number), "is no number of a turn")
    return found


def _turn(kept: Kept, number: bytes, data: bytes) -> SessionTurn:
    try:
        return decode(data, SessionTurn)
    except SchemaError as error:
        field = SessionField.turn(_number(kept, number))
        raise UnreadableSessionError(kept.name, kept.keys.policy, field, str(error)) from None
