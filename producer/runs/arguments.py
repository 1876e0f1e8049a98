"""The arguments of a run's calls, checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rollstream.schemas.entry_id import MAX_VERSION
from rollstream.schemas.keys import check_name
from rollstream.schemas.times import LONGEST_RUN_RETENTION_S, SHORTEST_RUN_RETENTION_S

from ..calls.arguments import number
from ..errors import ArgumentError
from ..rollouts.cat_rollouts import CAT


class _Keep:
    """Stands for a cursor that stays as it is: every value of a trainer's is one, None too."""

    def __repr__(self) -> str:
        return "<as it is>"


KEEP: Any = _Keep()


class Named(Protocol):
    """A handle, its rollouts, or an outstanding batch."""

    @property
    def batch_id(self) -> str:
        """The batch's id."""


def ids_of(batches: Sequence[object]) -> tuple[str, ...]:
    """The ids of what a trainer consumes at once. Raises `ArgumentError`, `NameRefusedError`."""
    found = tuple(map(_id_of, batches))
    if not found or len(set(found)) != len(found):
        raise ArgumentError("batch", list(found), "give at least one batch, and each once")
    return found


def _id_of(batch: object) -> str:
    found = batch if isinstance(batch, str) else getattr(batch, "batch_id", None)
    if not isinstance(found, str):
        rule = "give a handle, its rollouts, an entry of run.outstanding or a batch id; or a list of them"
        raise ArgumentError("batch", batch, rule)
    if CAT in found:
        rule = f"is several batches in one: give the list of what RolloutBatch.cat was given, {found.split(CAT)}"
        raise ArgumentError("batch", found, rule)
    return check_name("batch_id", found)


def admitted_at(value: object) -> int | None:
    """The policy version of an admission. Raises `ArgumentError`."""
    found = number(value)
    if found is not None and (type(found) is not int or not 0 <= found <= MAX_VERSION):
        raise ArgumentError("admitted", value, "give the version that gate.admit returned")
    return found


def retention(value: object) -> int:
    """For how many seconds a run is kept. Raises `ArgumentError`."""
    seconds = number(value)
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not SHORTEST_RUN_RETENTION_S <= seconds <= LONGEST_RUN_RETENTION_S
    ):
        rule = f"give seconds from {SHORTEST_RUN_RETENTION_S} to {LONGEST_RUN_RETENTION_S}"
        raise ArgumentError("retention_s", value, rule)
    return int(seconds)
