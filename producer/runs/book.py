"""What one opening knows of its run, in memory: its outstanding batches, their names and numbers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from rollstream.schemas.hashes.runs import RunField
from rollstream.schemas.wire.trainers.run_state import RunState
from rollstream.schemas.wire.trainers.runs import Intent

from ..batches.handle import BatchHandle
from ..scores.handle import ScoreHandle

RunHandle: TypeAlias = BatchHandle | ScoreHandle
"""The handle of a batch of a run: of prompts, or of rows to score."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One outstanding batch. `Book` and `Run` change it, in the client's event loop."""

    intent: Intent
    handle: RunHandle | None = None
    missing: str = ""
    """Why there is no handle."""
    is_confirmed: bool = True
    """Whether Redis has said that it has the intent."""
    is_left: bool = False
    """Whether the trainer before, or a submit that failed, has left it, and nobody has asked for it yet."""
    submits: int = 0
    """How many submits have chosen it and are not done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """How many batches of a run there are: `submitted` = consumed + dropped + outstanding."""

    submitted: int
    consumed: int
    dropped: int
    outstanding: int
    not_queued: int
    """Outstanding ones that were never queued, or not all of them: `Run.outstanding` names them."""


@dataclass(slots=True, kw_only=True)
class Book:
    """Changed by its `Run` alone: before an intent is written (`_last`), and after Redis has confirmed a write."""

    stem: str
    _last: int
    _settled: Counter[str]
    entries: dict[str, Entry] = field(default_factory=dict)
    unreleased: list[str] = field(default_factory=list)
    """Consumed or dropped batches whose results are still kept."""
    released: list[str] = field(default_factory=list)
    """Those whose results have their usual time to live, which the run has still to be told."""

    @classmethod
    def of(cls, state: RunState, entries: Iterable[Entry]) -> Book:
        """What the run says, and its outstanding batches."""
        settled = Counter({str(RunField.CONSUMED): state.consumed, str(RunField.DROPPED): state.dropped})
        highest = max((one.number for one in state.outstanding), default=0)
        return cls(
            stem=state.stem,
            _last=max(state.last, highest),
            _settled=settled,
            entries={one.intent.batch_id: one for one in entries},
            unreleased=list(state.settled),
        )

    @property
    def in_order(self) -> list[Entry]:
        """The outstanding batches in the order of submission."""
        return sorted(self.entries.values(), key=lambda one: one.intent.number)

    @property
    def counts(self) -> RunCounts:
        """How many there are."""
        consumed, dropped = self._settled[RunField.CONSUMED], self._settled[RunField.DROPPED]
        return RunCounts(
            submitted=consumed + dropped + len(self.entries),
            consumed=consumed,
            dropped=dropped,
            outstanding=len(self.entries),
            not_queued=sum(1 for one in self.entries.values() if one.handle is None),
        )

    @property
    def admitted(self) -> Counter[int]:
        """Outstanding samples that a gate has admitted, by version."""
        found: Counter[int] = Counter()
        for one in self.entries.values():
            if one.intent.admitted is not None:
                found[one.intent.admitted] += one.intent.samples
        return found

    def name(self, digest: Callable[[], str]) -> tuple[str, int]:
        """Id and number for a batch of this content: those of one that was left, or new ones.

        One that was queued is preferred, because it may be finished. `digest` is only asked for if there are such
        batches.
        """
        left = [one for one in self.in_order if one.is_left and not one.submits]
        left.sort(key=lambda one: one.handle is None)
        if left:
            wanted = digest()
            for one in left:
                if one.intent.digest == wanted:
                    return one.intent.batch_id, one.intent.number
        self._last += 1
        return f"{self.stem}.{self._last}", self._last

    def number_of(self, batch_id: str) -> int:
        """The number of a batch that the trainer has named."""
        if batch_id in self.entries:
            return self.entries[batch_id].intent.number
        self._last += 1
        return self._last

    @contextmanager
    def chosen(self, batch_id: str) -> Iterator[None]:
        """A submit of this batch is under way: no other that looks for its content gets it, unless this one fails."""
        entry = self.entries.get(batch_id)
        if entry is None:
            yield
            return
        entry.submits += 1
        try:
            yield
        finally:
            entry.submits -= 1

    def settle(self, batch_id: str, how: RunField) -> None:
        """The batch is consumed or dropped."""
        self.entries.pop(batch_id, None)
        self._settled[how] += 1
        self.unreleased.append(batch_id)
