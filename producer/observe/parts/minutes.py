"""The sums of the last hour's minutes. Those that are over are read once."""

from __future__ import annotations

from rollstream.schemas import Keys
from rollstream.schemas.hashes.history import Minute

from .rounds import Command, Part

HOUR = 60
_MOST_FIELDS = 1000
"""HSCAN gives about so many, and no more of a hash that something else has filled."""


class Minutes:
    """Remembers the minutes that nobody adds to any more."""

    def __init__(self, *, keys: Keys) -> None:
        self._keys = keys
        self._over: dict[int, Minute] = {}

    def read(self) -> Part[tuple[tuple[int, Minute], ...]]:
        """Number and sums of the last hour's minutes that have sums, oldest first."""
        now, _ = yield []
        current = int(now // 60)
        hour = range(current - HOUR + 1, current + 1)
        wanted = [minute for minute in hour if minute not in self._over]
        _, replies = yield [self._asked(minute) for minute in wanted]
        read = {minute: Minute.of(reply[1]) for minute, reply in zip(wanted, replies, strict=True) if reply is not None}
        kept = {minute: sums for minute, sums in self._over.items() if minute in hour}
        found = kept | read
        self._over = {minute: sums for minute, sums in found.items() if minute < current - 1}
        return tuple((minute, found[minute]) for minute in sorted(found) if found[minute] != Minute())

    def _asked(self, minute: int) -> Command:
        key = self._keys.history(minute)
        return lambda pipe: pipe.hscan(key, 0, count=_MOST_FIELDS)
