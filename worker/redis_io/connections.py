"""No connection retries by itself: `retrying` repeats only commands that are known to be safe to send twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import hiredis
import structlog
from redis import exceptions
from redis.asyncio import Connection, Redis, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection

from rollstream.transport.redis import connected
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.client_settings import NO_BOUND, client_settings
from rollstream.transport.redis.confirmed import UnconfirmedError
from rollstream.transport.redis.faults import UNKNOWN, fault_of
from rollstream.transport.redis.lost_cancellations import cancellations, cancellations_so_far
from rollstream.transport.redis.urls import RedisUrlError

from ..errors import SettingsError
from ..measure.redis_errors import FAILED

UNKNOWN_REPLY_S = 60
"""How long a command is repeated whose error reply is not known."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0

_REPLICAS_TOLD_S = 60.0
"""Seconds until it is said again that answers wait for replicas."""
_replicas_told_at = float("-inf")

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()


class _Uv(AbstractConnection):
    """Packs commands in C, as redis-py's blocking connections do; its asyncio connections take three times as long.

    uvloop refuses to write to a closed transport, and redis-py has nothing to write to once somebody else closed the
    connection meanwhile; this turns either error into that of a lost connection.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Send a packed command. Raises `ConnectionError` if the connection is lost."""
        try:
            await super().send_packed_command(command, check_health)
        except (RuntimeError, AttributeError) as error:
            if isinstance(error, AttributeError) and self.is_connected:
                raise
            await self.disconnect(nowait=True)
            raise exceptions.ConnectionError(str(error)) from None

    def pack_command(self, *args: Any) -> list[bytes]:
        """Pack a command for Redis. Raises `DataError` for a word that is no text, number or bytes."""
        name = args[0].encode() if isinstance(args[0], str) else args[0]  # redis-py may write several words as one name
        try:
            return [hiredis.pack_command((*name.split(), *args[1:]))]
        except TypeError as error:
            raise exceptions.DataError(str(error)) from None

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Pack several commands to send them together."""
        return [b"".join([packed for command in commands for packed in self.pack_command(*command)])]


class TcpConnection(_Uv, Connection):
    """See `_Uv`."""


class UnixConnection(_Uv, UnixDomainSocketConnection):
    """See `_Uv`."""


def connect(access: RedisAccess | str) -> Redis:
    """A client that connects at its first command; its users limit how much is sent at once. Raises `SettingsError`."""
    try:
        return connected(
            access,
            max_connections=NO_BOUND,
            tcp=TcpConnection,  # not needed for TLS, whose transport takes late writes
            unix=UnixConnection,
            **client_settings(),
        )
    except RedisUrlError as error:
        raise SettingsError(f"--redis {error}") from None


def never_passes(error: exceptions.RedisError) -> bool:
    """Whether the same command fails for ever, because of what its keys hold or of the command itself."""
    return fault_of(error).never


class Patience:
    """Decides, from Redis' errors, how long a command is repeated."""

    def __init__(self) -> None:
        self._unknown_since: float | None = None

    def is_over(self, error: exceptions.RedisError) -> bool:
        """Whether to give up after this error."""
        fault = fault_of(error)
        if fault is not UNKNOWN:
            self._unknown_since = None
            return fault.never
        self._unknown_since = self._unknown_since or time.monotonic()
        return time.monotonic() - self._unknown_since >= UNKNOWN_REPLY_S


def cancelled(since: int = 0) -> bool:
    """Whether this task was cancelled more than `since` times. A loop over commands must ask this.

    redis-py sometimes loses a cancellation, see `transport.redis.lost_cancellations`.
    """
    return cancellations() > since


def _tell(what: str, error: exceptions.RedisError, pause_s: float) -> None:
    """Warn of a failed try. That replicas are behind is one fact about all answers, and said once in a while."""
    global _replicas_told_at  # noqa: PLW0603 - one for the process, as the replicas are
    if not isinstance(error, UnconfirmedError):
        remedy = fault_of(error).advice
        log.warning("redis does not answer, trying again", what=what, error=str(error), remedy=remedy, pause_s=pause_s)
    elif time.monotonic() - _replicas_told_at > _REPLICAS_TOLD_S:
        _replicas_told_at = time.monotonic()
        log.warning(
            "replicas do not have what was written, waiting for them",
            what=what,
            error=str(error),
            remedy=fault_of(error).advice,
        )


async def retrying(what: str, command: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Repeat `command` until Redis takes it, with longer and longer pauses. Only for commands that may be sent twice.

    A lost connection, a failover, a full disk or memory, missing replicas, a missing right: all may be mended.
    A cancelled task may call this as its last act; then only another cancellation ends it.
    Raises `RedisError` for an error that never passes, and for an unknown one after a minute, so that no entry keeps
    its place in the worker for ever.
    """
    before, pause, patience = await cancellations_so_far(), _FIRST_PAUSE_S, Patience()
    while True:
        try:
            return await command(*args, **kwargs)
        except exceptions.RedisError as error:
            FAILED.add()
            if patience.is_over(error):
                raise
            if cancelled(before):
                raise asyncio.CancelledError from error
            _tell(what, error, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
