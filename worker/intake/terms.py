"""What all leases of a worker have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..delivery.lease import Lease
from ..redis_io.streams import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under which name, from which streams and for how long this worker takes jobs."""

    policy: str
    consumer: str
    """The worker's name in the consumer group."""
    dead_keys: Mapping[str, str]
    """The stream of jobs of each partition, and its stream of dead letters."""
    lease_s: float

    def lease(self, entry: Entry) -> Lease:
        """The lease of a job that was just delivered."""
        return Lease(
            jobs_key=entry.jobs_key,
            dead_key=self.dead_keys[entry.jobs_key],
            entry_id=entry.entry_id,
            consumer=self.consumer,
            delivery=entry.delivery,
            ends_at=entry.taken_at + self.lease_s,
            taken_at=entry.taken_at,
            is_first=entry.is_first,
        )
