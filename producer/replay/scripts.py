"""The script that reads dead letters, as a typed call."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from rollstream.transport.redis.scripts import load

DEAD = load(__package__, "dead.lua")
READ_COUNT, READ_BYTES = 16, 2**20
"""Most entries and bytes of one call: Redis copies their payloads, and does nothing else meanwhile."""


async def dead(redis: Redis, key: str, *, start: str) -> list[tuple[str, bytes, int]]:
    """See `dead.lua`: entry id, letter and size of the payload of some letters from `start` on; none: that was all.

    Raises `RedisError`.
    """
    rows: list[Any] = await DEAD([key], [start, READ_COUNT, READ_BYTES]).whole_to(redis)
    return [(entry_id.decode(), letter, nbytes) for entry_id, letter, nbytes in rows]
