"""Jobs that no worker holds and that wait for something: pending under a consumer that is named for what it is.

No worker has a ':' in its name, so none is mistaken for such a consumer. A worker that meets jobs under a name that it
does not know takes them over once their lease ends, as those of a worker that is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from .entry_id import version_of

VERSION_PREFIX = "parked:version:"
"""Before the version; `unpark.lua` looks for it."""


@dataclass(frozen=True, slots=True, order=True)
class ParkedFor:
    """A policy version that jobs wait for: a worker that serves it, or a newer one, takes them."""

    version: int

    @property
    def consumer(self) -> str:
        """The consumer that the jobs are pending under."""
        return f"{VERSION_PREFIX}{self.version}"

    @classmethod
    def of(cls, consumer: str) -> Self | None:
        """What the jobs of this consumer wait for; None for a worker, whose jobs run."""
        version = version_of(consumer.removeprefix(VERSION_PREFIX)) if consumer.startswith(VERSION_PREFIX) else None
        return None if version is None else cls(version)
