"""How long a job may wait and run. Checked before anything is queued, since a worker would refuse the whole job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ..calls.arguments import number
from ..errors import DeadlineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """The deadlines of every job of a batch; None: no deadline. Not part of the batch's content digest."""

    queue_deadline_s: float | None = None
    """Seconds from the entry's id to its first delivery, by Redis' clock."""
    run_deadline_s: float | None = None
    """Seconds of one delivery, from its admission."""

    @classmethod
    def of(cls, queue_deadline_s: object, run_deadline_s: object) -> Self:
        """Check both. Raises `DeadlineError`."""
        return cls(
            queue_deadline_s=_seconds("queue_deadline_s", queue_deadline_s),
            run_deadline_s=_seconds("run_deadline_s", run_deadline_s),
        )


NO_DEADLINES = Deadlines()


def _seconds(name: str, value: object) -> float | None:
    value = number(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise DeadlineError(name, value)
    return float(value)
