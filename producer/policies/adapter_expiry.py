"""The adapter of the policy version to serve, and of newer ones, stays in Redis for a day; older ones leave within an
hour.

A worker that still serves an older adapter renews it for a day. The next announcement shortens its time again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import AdapterManifest, Keys, PolicyVersion, SchemaError, decode
from rollstream.schemas.keys import POLICY_ADAPTER
from rollstream.schemas.times import SUPERSEDED_SLACK_S, SUPERSEDED_TTL_S

from ..redis_io.connection import Connection


async def expire_superseded(
    connection: Connection, keys: Keys, announced: Sequence[PolicyVersion], active: int
) -> None:
    """Let the `announced` adapters of versions before `active` expire soon. Raises `RedisUnavailableError`.

    Chunks of a policy version's adapter belong to no other kind of adapter, see `producer.policies.publish_policy`.
    """
    superseded = [one for one in announced if one.version < active]
    spared = {one.sha256 for one in announced if one.version >= active}
    names = [one.location for one in superseded if one.location.startswith(POLICY_ADAPTER) and one.sha256 not in spared]

    async def expire(redis: Redis) -> None:
        manifests = [keys.adapter(name) for name in names]
        found = await _long_lived(redis, manifests)
        async with redis.pipeline(transaction=False) as pipe:
            for key, manifest in found.items():
                for number in range(manifest.chunks):
                    pipe.expire(keys.blob(manifest.sha256, number), SUPERSEDED_TTL_S + SUPERSEDED_SLACK_S)
                pipe.expire(key, SUPERSEDED_TTL_S)  # last, because its TTL says whether this was done
            await pipe.execute()

    if names:
        await connection.call("expire superseded adapters", expire)


async def _long_lived(redis: Redis, manifests: Sequence[str]) -> dict[str, AdapterManifest]:
    """Manifests, by key, whose TTL is longer than it should be."""
    async with redis.pipeline(transaction=False) as pipe:
        for key in manifests:
            pipe.ttl(key)
            pipe.get(key)
        replies: list[Any] = await pipe.execute()
    found = zip(manifests, replies[::2], replies[1::2], strict=True)
    opened = {key: _opened(data) for key, ttl, data in found if ttl > SUPERSEDED_TTL_S}
    return {key: manifest for key, manifest in opened.items() if manifest is not None}


def _opened(data: bytes | None) -> AdapterManifest | None:
    try:
        return decode(data or b"", AdapterManifest)
    except SchemaError:
        return None
