"""The script of a beat, as a typed call."""

from __future__ import annotations

from collections.abc import Mapping

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.times import LONGEST_REPORT_TTL_S
from rollstream.transport.redis.scripts import load

BEAT = load(__package__, "beat.lua")


async def beat(
    redis: Redis, keys: Keys, *, consumer: str, ttl_s: int, fields: Mapping[str, str | int | float]
) -> float:
    """See `beat.lua`: write a worker's report, which lives for `ttl_s`; the unix seconds of Redis' clock.

    Raises `RedisError`.
    """
    words = [word for pair in fields.items() for word in pair]
    names = [keys.worker(consumer), keys.workers()]
    return float(await BEAT(names, [consumer, ttl_s, LONGEST_REPORT_TTL_S, *words]).to(redis))
