"""All workers of a policy have one lease: the first worker writes it to Redis, and a worker with another one ends."""

from __future__ import annotations

from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys
from rollstream.schemas.lease import LEASE_FIELD, lease_ms, lease_of

from ..errors import SettingsError
from ..redis_io.connections import retrying

log = structlog.get_logger()


class LeaseAgreement:
    """Compares our `--lease-s` with that in the control hash, at start and whenever the hash is read."""

    def __init__(self, *, redis: Redis, keys: Keys, lease_s: float) -> None:
        self._redis = redis
        self._keys = keys
        self._lease_s = lease_s
        self._unreadable: bytes | None = None
        """The last value that could not be read: it is logged once."""

    async def begin(self) -> None:
        """Call it before loading anything. Waits for Redis. Raises `SettingsError` if the others have another lease."""
        try:
            there = await retrying("agree on the lease", self._write_down)
        except RedisError as error:
            raise SettingsError(f"--policy {self._keys.policy}: {self._keys.control()} is no hash: {error}") from None
        try:
            agreed = lease_of(there)
        except ValueError as error:
            raise SettingsError(f"--lease-s {self._lease_s:g}: {error}: {self._remedy()}") from None
        if agreed is not None and not self._is_ours(agreed):
            raise SettingsError(f"--lease-s {self._lease_s:g}: {self._other(agreed)}")

    async def check(self, value: bytes | None) -> str | None:
        """Why this worker must end, now that the control hash says `value`; None: it may go on.

        If Redis came back empty, our lease is written again. Raises `RedisError`.
        """
        if value is None:
            value = await self._write_down()
        try:
            agreed = lease_of(value)
        except ValueError as error:
            if value != self._unreadable:
                log.error("the lease cannot be read, keeping ours", lease_s=self._lease_s, error=str(error))
            self._unreadable = value
            return None
        return None if agreed is None or self._is_ours(agreed) else self._other(agreed)

    async def _write_down(self) -> bytes | None:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hsetnx(self._keys.control(), LEASE_FIELD, str(lease_ms(self._lease_s)))
            pipe.hget(self._keys.control(), LEASE_FIELD)
            replies: list[Any] = await pipe.execute()
        there: bytes | None = replies[1]
        return there

    def _is_ours(self, agreed: float) -> bool:
        return lease_ms(agreed) == lease_ms(self._lease_s)

    def _other(self, agreed: float) -> str:
        return (
            f"the workers of policy {self._keys.policy} have a lease of {agreed:g} s, and with another they would take "
            f"each other's jobs: start it with --lease-s {agreed:g}, or {self._remedy()}"
        )

    def _remedy(self) -> str:
        command = f"rollstream lease --policy {self._keys.policy} --set {self._lease_s:g}"
        return f"drain all workers and change it: {command}"
