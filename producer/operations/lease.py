"""The lease that all workers of a policy share: show it, and change it while no worker with another one is alive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.lease import LEASE_FIELD, lease_ms, lease_of

from ..queue_errors import LeaseInUseError
from ..redis_io.connection import Connection
from .queue_state import WorkerSeen, read_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSeen:
    """The lease in the control hash, and that of each worker whose report is there: it may be late and live on."""

    seconds: float | None
    """The agreed lease; None before the first worker has started."""
    problem: str
    """Why the agreed lease cannot be read; empty when it can."""
    workers: dict[str, str]
    """`--lease-s` of each of these workers by its name, as it reports it."""

    def differing(self, seconds: float | None) -> dict[str, str]:
        """Those of `workers` whose lease is not `seconds`."""
        return {name: told for name, told in self.workers.items() if seconds is None or not _is(told, seconds)}


def _is(told: str, seconds: float) -> bool:
    try:
        return lease_ms(float(told)) == lease_ms(seconds)
    except (ValueError, OverflowError):
        return False


async def read_lease(redis: Redis, keys: Keys) -> tuple[float | None, str]:
    """The agreed lease in seconds, None if there is none or it cannot be read; and why it cannot."""
    value: Any = await redis.hget(keys.control(), LEASE_FIELD)
    try:
        return lease_of(value), ""
    except ValueError as error:
        return None, str(error)


async def lease_seen(connection: Connection, keys: Keys) -> LeaseSeen:
    """Read the agreed lease and that of each worker that has a report. Raises `RedisUnavailableError`."""

    async def read(redis: Redis) -> LeaseSeen:
        seconds, micros = await redis.time()
        workers = await read_workers(redis, keys, seconds + micros / 1e6)
        agreed, problem = await read_lease(redis, keys)
        return LeaseSeen(seconds=agreed, problem=problem, workers=told_by(workers))

    return await connection.call("read the lease", read)


def told_by(workers: Iterable[WorkerSeen]) -> dict[str, str]:
    """`--lease-s` by worker; empty for a worker that does not report it."""
    told = {worker.consumer: worker.report.lease_s for worker in workers}
    return {name: "" if lease_s is None else str(lease_s) for name, lease_s in told.items()}


async def set_lease(connection: Connection, keys: Keys, seconds: float) -> None:
    """Make `seconds` the lease of the workers that start from now on.

    Raises `LeaseInUseError` while a worker with another lease is alive, since workers would take each other's jobs, and
    `RedisUnavailableError`. A worker that starts with another lease at the same moment sees the new one and drains.
    """
    seen = await lease_seen(connection, keys)
    if others := seen.differing(seconds):
        raise LeaseInUseError(keys.policy, seconds, others)
    value = str(lease_ms(seconds))
    await connection.call("set the lease", lambda redis: redis.hset(keys.control(), LEASE_FIELD, value))
