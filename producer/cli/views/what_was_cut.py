"""What was cut of a batch whose answers a command writes one by one: lengths are kept, answers are not."""

from __future__ import annotations

from rollstream.schemas import ErrorCode, GroupError, GroupResult

from ...batches.read_answers import AnyAnswer
from ...rollouts.selection import Selection


class WhatWasCut:
    """Collects lengths from answers. Nothing is told of a batch of which nothing was cut."""

    def __init__(self) -> None:
        self._kept: list[int] = []
        self._cut: list[int] = []
        self._cut_groups = 0

    def add(self, answer: AnyAnswer) -> None:
        """Count one group's answer."""
        if isinstance(answer, GroupResult):
            self._kept += answer.lengths.tolist()
            self._cut += [] if answer.cut_lengths is None else answer.cut_lengths.tolist()
        elif isinstance(answer, GroupError) and answer.code == ErrorCode.NOT_NEEDED:
            self._cut_groups += 1

    def __str__(self) -> str:
        """One line; empty if nothing was cut."""
        if not self._kept and not self._cut and self._cut_groups:
            return f"cut {self._cut_groups} {'group' if self._cut_groups == 1 else 'groups'}"
        return str(Selection.of(self._kept, self._cut, self._cut_groups) or "")
