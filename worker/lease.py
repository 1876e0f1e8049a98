"""A lease is the right to answer one entry; its fencing token is (consumer, delivery count) and Redis checks it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lease:
    """One delivery of one entry to this worker."""

    jobs_key: str
    dead_key: str
    entry_id: str
    consumer: str
    delivery: int
    """1 for a first delivery; Redis counts."""

    def token(self) -> tuple[str, str, str]:
        """consumer, entry id and delivery count, in the order that the scripts take them."""
        return self.consumer, self.entry_id, str(self.delivery)
