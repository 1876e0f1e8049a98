"""Parked jobs: no worker holds them, and they are pending under a consumer that is named for what they wait for.

No worker has a ':' in its name, so none is confused with such a consumer. If a worker does not know such a name, it
takes the jobs over once their lease ends, like those of a dead worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from .entry_id import version_of
from .errors import NameRefusedError
from .keys import check_name

VERSION_PREFIX = "parked:version:"
"""The part of the name before the version; `unpark.lua` looks for it."""
WORKER_PREFIX = "parked:worker:"
"""The part of the name before a worker's."""


@dataclass(frozen=True, slots=True, order=True)
class ParkedFor:
    """A policy version for which jobs wait: a worker that serves it, or a newer one, takes them."""

    version: int

    @property
    def consumer(self) -> str:
        """The consumer under which the jobs are pending."""
        return f"{VERSION_PREFIX}{self.version}"

    @classmethod
    def of(cls, consumer: str) -> Self | None:
        """What this consumer's jobs wait for; None for a worker, whose jobs run."""
        version = version_of(consumer.removeprefix(VERSION_PREFIX)) if consumer.startswith(VERSION_PREFIX) else None
        return None if version is None else cls(version)


@dataclass(frozen=True, slots=True, order=True)
class ParkedForWorker:
    """A worker for which jobs of its sessions wait, for seconds: then their lease ends, and anybody takes them."""

    worker: str

    @property
    def consumer(self) -> str:
        """The consumer under which the jobs are pending."""
        return f"{WORKER_PREFIX}{self.worker}"

    @classmethod
    def of(cls, consumer: str) -> Self | None:
        """Whom this consumer's jobs wait for; None for a worker, whose jobs run, and for what is no name."""
        if not consumer.startswith(WORKER_PREFIX):
            return None
        try:
            return cls(check_name("consumer", consumer.removeprefix(WORKER_PREFIX)))
        except NameRefusedError:
            return None


def is_parked(consumer: str) -> bool:
    """Whether this consumer stands for jobs that wait, and is no worker."""
    return ParkedFor.of(consumer) is not None or ParkedForWorker.of(consumer) is not None
