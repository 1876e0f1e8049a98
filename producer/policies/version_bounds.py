"""Which policy versions may sample a job. Checked before anything is queued, since a worker would refuse the job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from rollstream.schemas.entry_id import MAX_VERSION

from ..calls.arguments import number
from .errors import VersionBoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionBounds:
    """The bounds of every job of a batch, and part of its content digest: they decide which weights answer."""

    min_policy_version: int = 0
    """A worker that serves an older version leaves the job to others."""
    max_staleness: int | None = None
    """How many versions the weights may be behind the newest active one when a group begins; None: any number."""

    @classmethod
    def of(cls, min_policy_version: object, max_staleness: object) -> Self:
        """Check both bounds; None: no bound. Raises `VersionBoundError`."""
        least = _index("min_policy_version", min_policy_version)
        return cls(
            min_policy_version=0 if least is None else least, max_staleness=_index("max_staleness", max_staleness)
        )


ANY_VERSION = VersionBounds()


def _index(name: str, value: object) -> int | None:
    value = number(value)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MAX_VERSION:
        raise VersionBoundError(name, value)
    return value
