"""The turns of a session, as Redis has them: read once, and only the new ones after that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import Keys, SchemaError, decode
from rollstream.schemas.field_values import count_of
from rollstream.schemas.hashes.sessions import MAX_TURNS, SessionField
from rollstream.schemas.wire.trainers.sessions import SessionTurn

from ..redis_io.connection import Connection
from .errors import UnreadableSessionError

_PAGE = 128
"""Turns of one read: 8 MiB at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """The turns of a session at one moment, the first first; none if there is no such session."""

    token: bytes | None = None
    """Tells the session from another of its name."""
    turns: tuple[SessionTurn, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    """The number of a turn, by its batch."""


class KnownTurns:
    """Turns never change, so those that were read are kept; the last of them is read again, and tells whether Redis
    still has the same session: a failover may have lost some, and other turns may have come in their place.
    """

    def __init__(self, *, connection: Connection, keys: Keys, name: str) -> None:
        self._connection = connection
        self._keys = keys
        self._name = name
        self._known = Turns()

    async def read(self) -> Turns:
        """All turns by now. Raises `UnreadableSessionError`, `RedisUnavailableError`."""
        return await self._connection.call("read a session", self._read)

    async def _read(self, redis: Redis) -> Turns:
        """May be called again after it failed at any point, and several times at once."""
        key, known = self._keys.session(self._name), self._known
        token, counted = await self._fields(redis, key, [SessionField.TOKEN, SessionField.COUNT])
        count = 0 if counted is None else count_of(counted)
        if count is None or count > MAX_TURNS:
            raise self._unreadable(SessionField.COUNT, "is no number of turns")
        if not await self._is_same(redis, key, known, token, count):
            known = Turns()
        turns, numbers = list(known.turns), dict(known.numbers)
        for start in range(len(turns), count, _PAGE):
            for turn in await self._page(redis, key, start, min(start + _PAGE, count)):
                self._check(turn, len(turns), numbers)
                numbers[turn.batch_id] = len(turns)
                turns.append(turn)
        self._known = Turns(token=token, turns=tuple(turns), numbers=numbers)
        return self._known

    async def _is_same(self, redis: Redis, key: str, known: Turns, token: bytes | None, count: int) -> bool:
        """Whether what is known is the beginning of what is there."""
        size = len(known.turns)
        if not size or token != known.token or count < size:
            return False
        return await self._page(redis, key, size - 1, size) == [known.turns[-1]]

    async def _page(self, redis: Redis, key: str, start: int, end: int) -> list[SessionTurn]:
        names = [SessionField.turn(number) for number in range(start, end)]
        return [self._turn(name, data) for name, data in zip(names, await self._fields(redis, key, names), strict=True)]

    @staticmethod
    async def _fields(redis: Redis, key: str, names: Sequence[str]) -> list[bytes | None]:
        found: Any = await redis.hmget(key, list(names))
        return list(found)

    def _turn(self, name: str, data: bytes | None) -> SessionTurn:
        if data is None:
            raise self._unreadable(name, "is missing")
        try:
            return decode(data, SessionTurn)
        except SchemaError as error:
            raise self._unreadable(name, str(error)) from None

    def _check(self, turn: SessionTurn, number: int, numbers: dict[str, int]) -> None:
        """A parent comes before its children, so that no path goes round."""
        name = SessionField.turn(number)
        if turn.batch_id in numbers:
            raise self._unreadable(name, f"is of batch {turn.batch_id!r}, as turn {numbers[turn.batch_id]} is")
        parent = turn.parent
        if parent is not None and (parent.batch_id not in numbers or parent.group != 0):
            raise self._unreadable(name, f"goes on from {parent}, which is no turn before it")

    def _unreadable(self, field: str, problem: str) -> UnreadableSessionError:
        return UnreadableSessionError(self._name, self._keys.policy, field, problem)
