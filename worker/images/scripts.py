"""Typed calls of the scripts of this room."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.times import MEDIA_TTL_S
from rollstream.transport.redis.scripts import load

_RENEW = load(__package__, "renew_image.lua")


async def renew(redis: Redis, keys: Keys, sha256: str) -> bool:
    """Let an image stay for a day, or as long as it would anyhow; whether it is there. Raises `RedisError`."""
    return bool(await _RENEW([keys.media(sha256)], [MEDIA_TTL_S]).to(redis))
