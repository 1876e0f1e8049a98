"""Two budgets for failed deliveries: for those whose worker died, and for those whose worker lived on.

A worker that lost a lease and lives notes so in the batch's ledger. A delivery without such a note may have killed its
worker: it counts as a crash until the worker wakes or is reached again. So does one whose engine died.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis

from rollstream.schemas import ErrorCode, Keys
from rollstream.schemas.hashes.ledger import LedgerField

from ..errors import DataError
from ..measure.measures import Measures
from ..redis_io.connections import retrying
from . import scripts
from .lease import Lease

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """How many deliveries of a job may fail."""

    deliveries: int
    """Deliveries without a note that their worker lived on."""
    interruptions: int
    """Deliveries that ended although their worker lived."""

    @property
    def total(self) -> int:
        """After this many deliveries one of the two budgets is spent."""
        return self.deliveries + self.interruptions


def why_given_up(budgets: Budgets, earlier: int, interrupted: int) -> str | None:
    """A job's error text once a budget is spent, after `earlier` deliveries; `interrupted` of them are excused."""
    crashes = earlier - interrupted
    counted = f"given up after {earlier} deliveries, {crashes} whose worker died, {interrupted} whose worker lived on: "
    if crashes >= budgets.deliveries:
        return (
            f"{counted}the job may be what kills them (--max-deliveries {budgets.deliveries}); it is kept as a dead "
            "letter: look at the workers' logs, and requeue it once the cause is gone"
        )
    if interrupted >= budgets.interruptions:
        return (
            f"{counted}workers live but cannot keep their lease (--max-interruptions {budgets.interruptions}); it is "
            "kept as a dead letter: mend the link to Redis or raise --lease-s, then requeue it"
        )
    return None


class DeliveryBudgets:
    """Counts how a job's earlier deliveries ended."""

    def __init__(self, *, redis: Redis, keys: Keys, budgets: Budgets, measures: Measures) -> None:
        self._redis = redis
        self._measures = measures
        self._keys = keys
        self._budgets = budgets

    async def excuse(self, lease: Lease, batch_id: str) -> None:
        """Note that our worker lives although this delivery ended; safe to repeat. Raises as `retrying` does."""
        if await retrying("excuse", scripts.excuse, self._redis, lease, ledger=self._keys.ledger(batch_id)):
            log.info("delivery excused", entry=lease.entry_id, delivery=lease.delivery)

    async def check(self, lease: Lease, batch_id: str) -> None:
        """Count a redelivery by what ended the delivery before it.

        Raises `DataError` if the job must be given up; `RedisError` if the ledger's key has another type.
        """
        earlier = lease.delivery - 1
        if not earlier:
            return
        counted = range(1, min(earlier, self._budgets.total) + 1)
        fields = [LedgerField.lived(lease.entry_id, delivery) for delivery in (*counted, earlier)]
        *lived, last = await retrying("read ledger", self._values, self._keys.ledger(batch_id), fields)
        self._measures.redeliveries["crash" if last is None else "interruption"] += 1
        problem = why_given_up(self._budgets, len(counted), sum(value is not None for value in lived))
        if problem is not None:
            raise DataError(ErrorCode.TOO_MANY_DELIVERIES, "job", problem)

    async def _values(self, ledger: str, fields: list[str]) -> list[bytes | None]:
        values: Any = await self._redis.hmget(ledger, fields)
        return list(values)
