"""Which workers are alive. A report that stays only because Redis' clock was set back does not count."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.reports import outlived


async def live_reports(redis: Redis, keys: Keys) -> list[bytes]:
    """Keys of the reports of live workers, sorted."""
    found = sorted([key async for key in redis.scan_iter(match=keys.workers_pattern(), count=500)])
    async with redis.pipeline(transaction=False) as pipe:
        for key in found:
            pipe.ttl(key)
        left: list[int] = await pipe.execute()
    return [key for key, ttl_s in zip(found, left, strict=True) if not outlived(ttl_s)]
