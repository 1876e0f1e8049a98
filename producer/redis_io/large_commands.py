"""Refuse a command that is larger than Redis takes, with both sizes; Redis itself would only close the connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.transport.redis.limits import ALWAYS_FITS, Oversize, TooLarge, read_limits

from ..queue_errors import TooLargeForRedisError
from .connection import Connection

T = TypeVar("T")


async def check_size(connection: Connection, what: str, argument: int, command: int, advice: str) -> None:
    """Before anything is sent, ask Redis for its limits if a command of so many bytes may exceed one.

    `argument` is the size of the largest argument. Raises `TooLargeForRedisError`, `RedisUnavailableError`.
    """
    if command <= ALWAYS_FITS:
        return
    limits = await connection.call(what, read_limits)
    if problem := limits.exceeded_by(argument, command):
        raise _error(connection, what, problem, advice)


def sized(
    connection: Connection, what: str, command: Callable[[Redis], Awaitable[T]], nbytes: int, advice: str
) -> Callable[[Redis], Awaitable[T]]:
    """Wrap `command` for `Connection.call`, which repeats it after a lost connection.

    Once it is known that the command's size breaks the connection, the wrapper raises `TooLargeForRedisError`.
    """
    size = Oversize(argument=nbytes, command=nbytes)

    async def send(redis: Redis) -> T:
        try:
            return await command(redis)
        except RedisError as error:
            if problem := await size.why(error, redis):
                raise _error(connection, what, problem, advice) from None
            raise

    return send


def _error(connection: Connection, what: str, problem: TooLarge, advice: str) -> TooLargeForRedisError:
    told = f"{problem}; {advice}"
    return TooLargeForRedisError(what, connection.url, told, problem.nbytes, problem.limit, problem.setting)
