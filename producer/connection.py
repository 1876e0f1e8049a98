"""The border to Redis: what is safe to send twice is sent again here, and foreign errors become ours, once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from producer.errors import ClientClosedError, RedisUnavailableError

BLOCK_MS = 2_000
"""Longest blocking read; the socket's timeout is 5 s more, so that a slow answer is not taken for a lost one."""

_PASSING = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, exceptions.TryAgainError)
_LASTING = (exceptions.AuthenticationError, exceptions.AuthorizationError)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0

T = TypeVar("T")


class Connection:
    """One Redis for one client. redis-py's own retries are off: they repeat commands that must not be repeated."""

    def __init__(self, url: str, reconnect_s: float) -> None:
        self.url = without_password(url)
        self._reconnect_s = reconnect_s
        self._reached = False
        self._closed = False
        try:
            self._redis = Redis.from_url(
                url,
                protocol=2,  # RESP3 changes the shape of stream replies
                decode_responses=False,
                retry=Retry(NoBackoff(), 0),
                socket_connect_timeout=5,
                socket_timeout=BLOCK_MS / 1000 + 5,
                socket_keepalive=True,
            )
        except ValueError as error:
            raise RedisUnavailableError("connect", self.url, f"not a Redis URL ({error})") from None

    async def call(self, what: str, command: Callable[[Redis], Awaitable[T]]) -> T:
        """The answer to `command`, which must be safe to send twice: it is sent again while Redis is away.

        Before the first answer ever nothing is retried, so that a wrong address is reported at once.
        Raises `RedisUnavailableError`, `ClientClosedError`.
        """
        if self._closed:
            raise ClientClosedError(f"cannot {what}: the client is closed")
        if not self._reached:
            await self._once(what, lambda redis: redis.ping())
            self._reached = True
        return await self._until_answered(what, command)

    async def _until_answered(self, what: str, command: Callable[[Redis], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        give_up, pause = loop.time() + self._reconnect_s, _FIRST_PAUSE_S
        while True:
            try:
                return await self._once(what, command)
            except RedisUnavailableError as error:
                if not _passes(error.__cause__) or loop.time() + pause > give_up:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _once(self, what: str, command: Callable[[Redis], Awaitable[T]]) -> T:
        try:
            return await command(self._redis)
        except exceptions.RedisError as error:
            raise RedisUnavailableError(what, self.url, str(error) or type(error).__name__) from error

    async def aclose(self) -> None:
        """Close every socket. Safe to call twice."""
        self._closed = True
        await self._redis.aclose()


def _passes(error: BaseException | None) -> bool:
    return isinstance(error, _PASSING) and not isinstance(error, _LASTING)


def without_password(url: str) -> str:
    """`url` as it may be shown: without credentials, without the query that may hold them."""
    return re.sub(r"^([a-z+]+://)?.*@", r"\1***@", url.partition("?")[0])
