"""The id of a stream's entry. Only this module reads, compares and writes ids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

MAX_VERSION = 2**31 - 1
"""The last policy version: version v is the entry `EntryId(v)` of the versions stream."""


def version_of(text: str) -> int | None:
    """The text as a policy version; None if it is none."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(f"{MAX_VERSION}")
    return int(text) if is_number and int(text) <= MAX_VERSION else None


_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")


@dataclass(frozen=True, slots=True, order=True)
class EntryId:
    """An entry's id; later entries have greater ids. The milliseconds are Redis' clock, unless it was set back."""

    milliseconds: int
    sequence: int = 0

    @classmethod
    def of(cls, text: str | bytes) -> Self:
        """Read an id. Raises `ValueError` for a text that Redis would not take as a full id."""
        match = _ID.fullmatch(text if isinstance(text, str) else text.decode("latin-1"))
        if match is None or max(parts := [int(number) for number in match.groups()]) >= 2**64:
            raise ValueError(f"{str(text[:50])!r} is no entry id such as 1700000000000-0")
        return cls(*parts)

    @classmethod
    def is_one(cls, text: str | bytes) -> bool:
        """Whether the text is a full id."""
        try:
            cls.of(text)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.sequence}"

    @property
    def unix_s(self) -> float:
        """When the entry was written, in Unix seconds by Redis' clock."""
        return self.milliseconds / 1000

    def age_s(self, now: float) -> float:
        """Age in seconds, to the millisecond, at `now` by Redis' clock; 0 for an id ahead of the clock."""
        return max(0.0, round(now - self.unix_s, 3))


BEFORE_ALL = EntryId(0)
"""An id that no entry has: a read after it begins with the first entry."""
LAST_POSSIBLE = EntryId(2**64 - 1, 2**64 - 1)
"""Redis adds no entry after this id, and refuses to read after it."""


def after(entry_id: EntryId | str | bytes) -> str:
    """The first id of a range that begins after this entry."""
    return f"({entry_id.decode() if isinstance(entry_id, bytes) else entry_id}"
