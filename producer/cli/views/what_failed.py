"""Which groups failed of a batch whose answers a command writes one by one: counts are kept, and the first message."""

from __future__ import annotations

from collections import Counter

from rollstream.schemas import ErrorCode, GroupError

from ...batches.read_answers import AnyAnswer
from .headline import many

_MOST_CODES = 3


class WhatFailed:
    """Counts errors. A group that was cut was not needed, so it is none."""

    def __init__(self, num_groups: int) -> None:
        self._num_groups = num_groups
        self._codes = Counter[str]()
        self._first = ""

    def __bool__(self) -> bool:
        """Whether a group failed."""
        return bool(self._codes)

    def add(self, answer: AnyAnswer) -> None:
        """Look at one group's answer."""
        if isinstance(answer, GroupError) and answer.code != ErrorCode.NOT_NEEDED:
            self._first = self._first or f"{answer.code}: {answer.field}: {answer.message}"
            self._codes[answer.code] += 1

    def __str__(self) -> str:
        """One line; empty if nothing failed."""
        if not self:
            return ""
        failed = f"{self._codes.total()} of {many(self._num_groups, 'group')} failed"
        if len(self._codes) > 1:
            counted = [f"{count} {code}" for code, count in self._codes.most_common(_MOST_CODES)]
            failed += f" ({', '.join(counted)}{', ...' * (len(self._codes) > _MOST_CODES)})"
        return f"{failed}, the first: {self._first}"
