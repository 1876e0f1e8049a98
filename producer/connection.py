"""The border to Redis: what is safe to send twice is sent again here, and foreign errors become ours, once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from producer.errors import ClientClosedError, RedisUnavailableError
from producer.redis_faults import AWAY, fault_of
from schemas.cluster import PREFIXES, connected
from schemas.redis_url import without_password

BLOCK_MS = 2_000
"""Longest blocking read; the socket's timeout is 5 s more, so that a slow answer is not taken for a lost one."""

_SETTINGS: dict[str, Any] = {
    # Each waiting handle holds one in a blocking read; redis-py's default of 100 would fail the 101st.
    "max_connections": 10_000,
    "protocol": 2,  # RESP3 changes the shape of stream replies
    "decode_responses": False,
    "socket_connect_timeout": 5,
    "socket_timeout": BLOCK_MS / 1000 + 5,
    "socket_keepalive": True,
}
_URL_OPTIONS = frozenset({"db", "username", "password", "client_name", "health_check_interval"})
_TLS_OPTIONS = frozenset({
    "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs",
    "ssl_check_hostname",
})  # fmt: skip
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
            self._redis = connected(url, retry=Retry(NoBackoff(), 0), **_SETTINGS)
        except ValueError:  # its text may hold a part of the password
            known = f"redis://, rediss://, unix:// or, for a cluster, {PREFIXES}"
            advice = f"write {known}, special characters percent-encoded"
            raise RedisUnavailableError("connect", self.url, "not a Redis URL", advice) from None
        if strange := _strange_options(url):
            problem = f"its URL must not set {strange[0][:40]!r}"
            raise RedisUnavailableError("connect", self.url, problem, f"it may set {', '.join(sorted(_options(url)))}")

    async def call(self, what: str, command: Callable[[Redis], Awaitable[T]]) -> T:
        """The answer to `command`, which must be safe to send twice: it is sent again while Redis is away.

        Before the first answer ever nothing is retried, so that a wrong address is reported at once. A reply that Redis
        cannot serve just now (loading, out of memory, ...) is waited for like a lost connection.
        Raises `RedisUnavailableError`, `ClientClosedError`.
        """
        if self._closed:
            raise ClientClosedError(f"cannot {what}: the client is closed")
        if not self._reached:
            await self._reach(what)
        return await self._until_answered(what, command)

    async def _reach(self, what: str) -> None:
        try:
            await self._once(what, lambda redis: redis.ping())
        except RedisUnavailableError as error:
            fault = fault_of(error.__cause__)
            if fault is AWAY or not fault.passes:
                raise
        self._reached = True

    async def _until_answered(self, what: str, command: Callable[[Redis], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        give_up, pause = loop.time() + self._reconnect_s, _FIRST_PAUSE_S
        while True:
            try:
                return await self._once(what, command)
            except RedisUnavailableError as error:
                if not fault_of(error.__cause__).passes or loop.time() + pause > give_up:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _once(self, what: str, command: Callable[[Redis], Awaitable[T]]) -> T:
        try:
            answer = await command(self._redis)
        except exceptions.RedisError as error:
            _heed_cancellation()
            problem = str(error) or type(error).__name__
            raise RedisUnavailableError(what, self.url, problem, fault_of(error).advice) from error
        _heed_cancellation()
        return answer

    async def aclose(self) -> None:
        """Close every socket. Safe to call twice."""
        self._closed = True
        await self._redis.aclose()


def _heed_cancellation() -> None:
    """redis-py loses a cancellation now and then: it answers as if nothing were, or with an error of its own."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _options(url: str) -> frozenset[str]:
    return _URL_OPTIONS | _TLS_OPTIONS if urlsplit(url).scheme.startswith("rediss") else _URL_OPTIONS


def _strange_options(url: str) -> list[str]:
    """What redis-py would prefer to our settings, or not know."""
    return sorted(parse_qs(urlsplit(url).query).keys() - _options(url))
