"""Jobs that were delivered to this worker in a reply that was lost: Redis holds them for it, and it has no lease."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Envelope, WireError

from ..delivery.delivery_budgets import DeliveryBudgets
from ..delivery.lease import Lease, Leases
from ..redis_io import streams
from ..redis_io.connections import retrying
from ..redis_io.streams import Entry, GroupMissingError
from .terms import Terms

log = structlog.get_logger()


class Unseen:
    """Looks at the worker's own pending list. `unfinished`: leases of jobs that were taken and have not ended."""

    def __init__(
        self, *, redis: Redis, terms: Terms, leases: Leases, unfinished: Collection[Lease], budgets: DeliveryBudgets
    ) -> None:
        self._redis = redis
        self._terms = terms
        self._leases = leases
        self._unfinished = unfinished
        self._budgets = budgets

    async def find(self, jobs_keys: Iterable[str]) -> list[Entry]:
        """Entries that are pending for us and not held here: a read with `>` never returns them."""
        found: list[Entry] = []
        for jobs_key in jobs_keys:
            try:
                pending = await retrying("sweep", streams.pending_of, self._redis, self._terms.consumer, jobs_key)
            except (GroupMissingError, RedisError) as error:
                log.warning("no pending list", key=jobs_key, error=str(error))
                continue
            for entry_id, delivery, taken_at in pending:
                if self._knows(jobs_key, entry_id):  # a job that we gave up on was seen
                    continue
                unseen = await retrying(
                    "sweep", streams.read_again, self._redis, jobs_key, entry_id, delivery, taken_at
                )
                if taken_at + self._terms.lease_s < time.monotonic():  # left to the recoverer
                    await self._excuse(unseen)
                else:
                    found += unseen
        return found

    async def _excuse(self, unseen: list[Entry]) -> None:
        for entry in unseen:
            try:
                await self._budgets.excuse(self._terms.lease(entry), Envelope.of(entry.fields).batch_id)
            except (WireError, RedisError) as error:
                log.debug("delivery not excused", entry=entry.entry_id, error=str(error))

    def _knows(self, jobs_key: str, entry_id: str) -> bool:
        unfinished = ((lease.jobs_key, lease.entry_id) for lease in self._unfinished)
        return (jobs_key, entry_id) in self._leases or (jobs_key, entry_id) in unfinished
