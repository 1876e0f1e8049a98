"""A batch that a run has submitted and not consumed, as a trainer sees it after a restart and before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from ..run_errors import NotQueuedError
from .book import Entry, RunHandle
from .plain import unpacked

H = TypeVar("H")
G = TypeVar("G")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutstandingBatch(Generic[H]):
    """One outstanding batch of a run, from `Run.outstanding`."""

    batch_id: str
    number: int
    """Its place in the order of submission; numbers may have gaps."""
    note: Any
    """What was given to `submit` as `note`."""
    admitted: int | None
    """The policy version at which the gate admitted it."""
    samples: int
    """Completions that it asks for, or rows to score."""
    missing: str
    """Why it has no handle; empty if it has one."""
    take: Callable[[], H] = field(repr=False, compare=False)
    """Gives the handle; `handle` is what to use."""

    @property
    def is_queued(self) -> bool:
        """Whether all of it was queued. If not, its trainer died, or stopped waiting, in its submit."""
        return not self.missing

    @property
    def handle(self) -> H:
        """The batch's handle. Who asks for it takes the batch over: no later submit of the same content gives it again.

        Raises `NotQueuedError`: submit the same prompts again under its `batch_id`, or drop it.
        """
        return self.take()

    def held_by(self, hold: Callable[[H], G]) -> OutstandingBatch[G]:
        """The same with another kind of handle."""
        return replace(self, take=lambda: hold(self.take()))  # type: ignore[arg-type, return-value] # another H


def shown(entry: Entry, run: str, policy: str) -> OutstandingBatch[RunHandle]:
    """An entry of a run's book, as a trainer sees it."""
    intent = entry.intent

    def take() -> Any:
        entry.is_left = False
        return entry.handle

    return OutstandingBatch(
        batch_id=intent.batch_id,
        number=intent.number,
        note=unpacked(intent.note) if intent.note else None,
        admitted=intent.admitted,
        samples=intent.samples,
        missing=entry.missing,
        take=not_queued(run, policy, intent.batch_id, entry.missing) if entry.handle is None else take,
    )


def not_queued(run: str, policy: str, batch_id: str, why: str) -> Callable[[], Any]:
    """What `take` is for a batch without a handle."""

    def refuse() -> Any:
        raise NotQueuedError(run, policy, batch_id, why)

    return refuse
