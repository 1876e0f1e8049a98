"""The arguments of a run's calls, checked before anything is written."""

from __future__ import annotations

from typing import Any, Protocol

from rollstream.schemas.entry_id import MAX_VERSION
from rollstream.schemas.keys import check_name
from rollstream.schemas.times import LONGEST_RUN_RETENTION_S, SHORTEST_RUN_RETENTION_S

from ..calls.arguments import number
from ..errors import ArgumentError


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


def id_of(batch: object) -> str:
    """The id of what a trainer consumes. Raises `ArgumentError`, `NameRefusedError`."""
    found = getattr(batch, "batch_id", None)
    if not isinstance(found, str):
        raise ArgumentError("batch", batch, "give a handle, its rollouts, or an entry of run.outstanding")
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
