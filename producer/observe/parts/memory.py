"""How much memory Redis uses, and may use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.transport.redis import nodes_of
from rollstream.transport.redis.faults import fault_of


async def read_memory(redis: Redis) -> tuple[tuple[int, int] | None, int]:
    """Bytes used and Redis' limit (0 for none) of the fullest node, and how many nodes were asked.

    None if this user may not ask. Raises `RedisError` if a node is away.
    """
    nodes = await nodes_of(redis)
    replies = await asyncio.gather(*map(_asked, nodes.values()))
    return fullest(reply for reply in replies if reply is not None), len(nodes)


def fullest(nodes: Iterable[Mapping[str, Any]]) -> tuple[int, int] | None:
    """The node that is nearest to its limit, or without limits the one that uses most, from sections of INFO."""
    figures = [(_count(one.get("used_memory")), _count(one.get("maxmemory"))) for one in nodes]
    return max(figures, key=lambda one: (one[0] / one[1] if one[1] else 0.0, one[0]), default=None)


async def _asked(node: Redis) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = await node.info("memory")
    except RedisError as error:
        if fault_of(error).passes:
            raise
        return None
    return found


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
