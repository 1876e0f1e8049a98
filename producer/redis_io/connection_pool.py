"""A pool of connections with a queue: a command that finds none free waits, where redis-py would raise an error."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection


class TurnPool(ConnectionPool):
    """redis-py's pool with turns. A command has its connection and its turn from `get_connection` to `release`."""

    def __init__(self, connection_class: type[AbstractConnection], max_connections: int, **settings: Any) -> None:
        super().__init__(connection_class, max_connections, **settings)
        self._turns = asyncio.Semaphore(max_connections)
        self._used: set[AbstractConnection] = set()

    async def get_connection(self, *_command: Any, **_options: Any) -> AbstractConnection:
        """Wait for a turn, then return an open connection. Raises `RedisError`."""
        await self._turns.acquire()
        try:
            pool: Any = super()  # redis-py does not type it
            connection: AbstractConnection = await pool.get_connection()
        except BaseException:
            self._turns.release()
            raise
        self._used.add(connection)
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Pass the turn on. redis-py also calls this for a connection that could not be opened, which has no turn."""
        try:
            await super().release(connection)
        finally:
            if connection in self._used:
                self._used.remove(connection)
                self._turns.release()
