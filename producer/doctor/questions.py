"""The doctor's single questions to Redis. None of them writes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from redis.asyncio import Redis

from rollstream.schemas.entry_id import LAST_POSSIBLE
from rollstream.transport.redis import nodes_of

_PINGS = 7

T = TypeVar("T")


async def ended_streams(redis: Redis, streams: Iterable[str]) -> tuple[str, ...]:
    """The streams that contain the last possible id. Only that id is read: it is never one of our entries."""
    last = str(LAST_POSSIBLE)
    return tuple([stream for stream in streams if await redis.xrange(stream, last, last)])


async def time_pings(redis: Redis) -> tuple[float, ...]:
    """Durations of a few round trips, in seconds."""
    seconds = []
    for _ in range(_PINGS):
        sent = time.perf_counter()
        await redis.ping()
        seconds.append(time.perf_counter() - sent)
    return tuple(seconds)


async def read_clock(redis: Redis) -> tuple[float, float]:
    """Redis' clock minus ours, taken in the middle of the round trip, and Redis' clock; in Unix seconds."""
    sent = time.time()
    seconds, micros = await redis.time()
    now = seconds + micros / 1e6
    return now - (sent + time.time()) / 2, now


def of_each(command: Callable[[Redis], Awaitable[T]]) -> Callable[[Redis], Awaitable[dict[str, T]]]:
    """Make a question to one node a question to all; the answers are keyed by the node's name."""

    async def ask(redis: Redis) -> dict[str, T]:
        return {name: await command(node) for name, node in (await nodes_of(redis)).items()}

    return ask


async def read_info(redis: Redis) -> dict[str, str]:
    """INFO, all sections."""
    return {name: str(value) for name, value in (await redis.info()).items()}


async def read_appendfsync(redis: Redis) -> str:
    """When the append-only file is written to the disk; empty if Redis does not say."""
    return str((await redis.config_get("appendfsync")).get("appendfsync", ""))


async def read_types(redis: Redis, keys: Iterable[str]) -> dict[str, str]:
    """The Redis type of each key; `none` for a key that does not exist."""
    names = list(keys)
    async with redis.pipeline(transaction=False) as pipe:
        for key in names:
            pipe.type(key)
        found = await pipe.execute()
    return {key: kind.decode() for key, kind in zip(names, found, strict=True)}
