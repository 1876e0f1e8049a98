"""How long a job may wait and run, and how often what it has so far is kept.

Checked before anything is queued, since a worker would refuse the whole job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ..calls.arguments import number
from ..errors import ArgumentError, DeadlineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """The deadlines of every job of a batch; None: no deadline. Not part of the batch's content digest."""

    queue_deadline_s: float | None = None
    """Seconds from the entry's id to its first delivery, by Redis' clock."""
    run_deadline_s: float | None = None
    """Seconds of one delivery, from its admission."""
    keep_partials: float | None = None
    """No deadline: seconds between two times that running completions are kept; 0: never; None: as workers are set."""

    @classmethod
    def of(cls, queue_deadline_s: object, run_deadline_s: object, keep_partials: object = None) -> Self:
        """Check all. Raises `DeadlineError`, and `ArgumentError` for `keep_partials`."""
        return cls(
            queue_deadline_s=_seconds("queue_deadline_s", queue_deadline_s),
            run_deadline_s=_seconds("run_deadline_s", run_deadline_s),
            keep_partials=_keep_partials(keep_partials),
        )


NO_DEADLINES = Deadlines()


def _keep_partials(value: object) -> float | None:
    seconds = number(value)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise ArgumentError("keep_partials", value, "give seconds from 0 (never) on, or None: as the workers are set")
    return float(seconds)


def _seconds(name: str, value: object) -> float | None:
    value = number(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise DeadlineError(name, value)
    return float(value)
