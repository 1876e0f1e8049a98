"""The scripts of an operator, each as a typed call: a worker asked to drain, jobs that wait counted."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas.times import LONGEST_REPORT_TTL_S
from rollstream.transport.redis.scripts import load

DRAIN = load(__package__, "drain.lua")
WAITING = load(__package__, "waiting.lua")
_ENTRIES, _BYTES = 1000, 8 * 2**20
"""Most entries and bytes of one call: a few milliseconds of Redis' time."""


async def drain(redis: Redis, report: str) -> bool:
    """See `drain.lua`: whether the worker with this report lives and was asked. Raises `RedisError`."""
    return bool(await DRAIN([report], [LONGEST_REPORT_TTL_S]).whole_to(redis))


async def waiting(redis: Redis, jobs: str, *, after: bytes) -> tuple[int, bytes]:
    """See `waiting.lua`: how many entries follow `after`, and the last one counted. Raises `RedisError`."""
    count, last = await WAITING([jobs], [after, _ENTRIES, _BYTES]).whole_to(redis)
    return count, last
