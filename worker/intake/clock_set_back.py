"""Redis' clock that was ahead and is right again: deliveries of then lie in the future, and are counted from now on."""

from __future__ import annotations

import time

from redis.asyncio import Redis

from rollstream.schemas.entry_id import after

from .scripts import restamp


class SetBack:
    """Looks at each pending list twice a lease: a dead worker's jobs then wait for a lease and a half, not for as long
    as the clock was off. Workers that live renew theirs, which has the same effect.
    """

    def __init__(self, *, redis: Redis, lease_s: float) -> None:
        self._redis = redis
        self._period_s = lease_s / 2
        self._looked_at: dict[str, float] = {}

    async def look(self, jobs_key: str) -> None:
        """Where it is due. Raises `RedisError`, `GroupMissingError`."""
        now = time.monotonic()
        if now - self._looked_at.get(jobs_key, 0.0) < self._period_s:
            return
        self._looked_at[jobs_key] = now
        start = "-"
        while last := await restamp(self._redis, jobs_key, start=start):
            start = after(last)
