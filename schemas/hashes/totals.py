"""Sums of a partition's jobs, groups and tokens, kept by scripts so that counting reads no payload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from ..field_values import count_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums since the partition's first job. Nothing counts twice, even if a script is sent again.

    All `tokens` are the most that were asked for: groups x n x `max_new_tokens`, also if answered or cancelled.
    A group that is cancelled before its job was queued counts nowhere.
    """

    jobs_queued: int = 0
    groups_queued: int = 0
    tokens_queued: int = 0
    jobs_acknowledged: int = 0
    """Jobs whose groups all have an answer, or can have none."""
    groups_answered: int = 0
    """Groups answered by workers, with completions or with an error."""
    tokens_answered: int = 0
    groups_cancelled: int = 0
    """Groups answered by a producer's cancel; those that a worker answers as cancelled count as answered."""
    tokens_cancelled: int = 0
    jobs_buried: int = 0
    """Jobs kept as dead letters; their groups are answered with errors."""
    tokens_buried: int = 0

    @classmethod
    def of(cls, told: Mapping[bytes, bytes]) -> Self:
        """Read the hash; a field that is missing or no number is 0."""
        return cls(**{one.name: count_of(told.get(one.name.encode(), b"")) or 0 for one in fields(cls)})

    @property
    def open_groups(self) -> int:
        """Groups that are queued and have no answer."""
        return max(0, self.groups_queued - self.groups_answered - self.groups_cancelled)

    @property
    def open_tokens(self) -> int:
        """The most that workers may still have to generate."""
        return max(0, self.tokens_queued - self.tokens_answered - self.tokens_cancelled)
