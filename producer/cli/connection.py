"""A connection for the length of one command, on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from rollstream.schemas import Keys
from rollstream.transport.acl import Role
from rollstream.transport.redis.access import RedisAccess

from ..redis_io.connection import Connection

T = TypeVar("T")


def with_connection(redis: RedisAccess, keys: Keys, command: Callable[[Connection], Awaitable[T]]) -> T:
    """Return what `command` returns. Waits at most 5 s for Redis, then raises `RedisUnavailableError`."""

    async def run() -> T:
        connection = Connection(access=redis, reconnect_s=5, keys=keys, role=Role.OPERATOR)
        try:
            return await command(connection)
        finally:
            await connection.aclose()

    return asyncio.run(run())


@asynccontextmanager
async def shared_command(redis: RedisAccess, keys: Keys) -> AsyncIterator[Connection]:
    """A connection of a command that producers send as well as operators. It waits for Redis as a client does."""
    connection = Connection(access=redis, reconnect_s=60, keys=keys, role=Role.OPERATOR, also=Role.PRODUCER)
    try:
        yield connection
    finally:
        await connection.aclose()
