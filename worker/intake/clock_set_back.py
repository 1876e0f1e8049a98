"""Repairs what a Redis clock that was ahead leaves behind: deliveries in the future, which now count from now on."""

from __future__ import annotations

import time

from redis.asyncio import Redis

from rollstream.schemas.entry_id import after

from .scripts import restamp


class SetBack:
    """Looks at each pending list twice a lease. A dead worker's jobs then wait for a lease and a half, not for as long
    as the clock was ahead. Live workers renew their leases, which has the same effect. Jobs that wait for a session's
    worker wait no longer.
    """

    def __init__(self, *, redis: Redis, lease_s: float) -> None:
        self._redis = redis
        self._lease_ms = int(1000 * lease_s)
        self._period_s = lease_s / 2
        self._looked_at: dict[str, float] = {}

    async def look(self, jobs_key: str) -> None:
        """Look at one stream's pending list, if it is due. Raises `RedisError`, `GroupMissingError`."""
        now = time.monotonic()
        if now - self._looked_at.get(jobs_key, 0.0) < self._period_s:
            return
        self._looked_at[jobs_key] = now
        start = "-"
        while last := await restamp(self._redis, jobs_key, start=start, idle_ms=self._lease_ms):
            start = after(last)
