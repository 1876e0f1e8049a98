"""Sums of what a partition was asked for and what became of it: scripts keep them, so no payload is read to count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Each since the partition's first job, and never counted twice: whoever sends a script again changes nothing.

    `tokens` are the most that were asked for, groups x n x `max_new_tokens`, in all of them: what is answered or
    cancelled ends as many as were asked for it. A group that is cancelled before its job was queued counts nowhere.
    """

    jobs_queued: int = 0
    groups_queued: int = 0
    tokens_queued: int = 0
    jobs_acknowledged: int = 0
    """All of their groups have an answer, or nobody can be answered."""
    groups_answered: int = 0
    """By workers, with completions or with an error."""
    tokens_answered: int = 0
    groups_cancelled: int = 0
    """By a producer's cancel; what a worker answers as cancelled is answered."""
    tokens_cancelled: int = 0
    jobs_buried: int = 0
    """Kept as dead letters; their groups are answered, with errors."""
    tokens_buried: int = 0

    @classmethod
    def of(cls, told: Mapping[bytes, bytes]) -> Self:
        """What the hash holds; a field that is missing, or no number, is 0."""
        found = {one.name: told.get(one.name.encode(), b"") for one in fields(cls)}
        return cls(**{name: int(value) for name, value in found.items() if value.isdigit() and len(value) < 20})

    @property
    def open_groups(self) -> int:
        """Queued and without an answer."""
        return max(0, self.groups_queued - self.groups_answered - self.groups_cancelled)

    @property
    def open_tokens(self) -> int:
        """The most that workers may still have to generate."""
        return max(0, self.tokens_queued - self.tokens_answered - self.tokens_cancelled)
