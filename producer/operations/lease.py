"""The lease that all workers of a policy share: shown, and changed while no worker lives that has another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.lease import LEASE_FIELD, lease_ms, lease_of

from ..queue_errors import LeaseInUseError
from ..redis_io.connection import Connection
from .queue_state import Worker, read_workers


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """What is agreed on, and what live workers have."""

    seconds: float | None
    """None before the first worker started."""
    problem: str
    """Why it cannot be read; empty when it can."""
    workers: dict[str, str]
    """`--lease-s` by live worker, as each reports it."""

    def differing(self, seconds: float | None) -> dict[str, str]:
        """Those of the live workers that have another than `seconds`."""
        return {name: told for name, told in self.workers.items() if seconds is None or not _is(told, seconds)}


def _is(told: str, seconds: float) -> bool:
    try:
        return lease_ms(float(told)) == lease_ms(seconds)
    except (ValueError, OverflowError):
        return False


async def read_lease(redis: Redis, keys: Keys) -> tuple[float | None, str]:
    """The lease in seconds, None where there is none or it cannot be read; and why it cannot."""
    value: Any = await redis.hget(keys.control(), LEASE_FIELD)
    try:
        return lease_of(value), ""
    except ValueError as error:
        return None, str(error)


async def lease_seen(connection: Connection, keys: Keys) -> LeaseSeen:
    """Raises `RedisUnavailableError`."""

    async def read(redis: Redis) -> LeaseSeen:
        seconds, micros = await redis.time()
        workers = await read_workers(redis, keys, seconds + micros / 1e6)
        return LeaseSeen(*await read_lease(redis, keys), told_by(workers))

    return await connection.call("read the lease", read)


def told_by(workers: Iterable[Worker]) -> dict[str, str]:
    """`--lease-s` by worker; empty where one does not say."""
    return {worker.consumer: worker.fields.get("lease_s", "") for worker in workers}


async def set_lease(connection: Connection, keys: Keys, seconds: float) -> None:
    """Make `seconds` the lease of the workers that start from now on.

    One that started meanwhile with another sees it and drains. Raises `LeaseInUseError` while workers with another
    live: they would take each other's jobs; `RedisUnavailableError`.
    """
    seen = await lease_seen(connection, keys)
    if others := seen.differing(seconds):
        raise LeaseInUseError(keys.policy, seconds, others)
    value = str(lease_ms(seconds))
    await connection.call("set the lease", lambda redis: redis.hset(keys.control(), LEASE_FIELD, value))
