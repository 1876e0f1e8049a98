"""The way to a primary that may change: each connection is made to the one that the Sentinels name at that time.

After a failover the old primary may go on for ten seconds, and take writes that are then lost. So one Sentinel is asked
every half a second while the client is used, and all connections end once it names another primary.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from typing import Any

from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection

from rollstream.schemas.printable import printable

from .faults import code_of
from .sentinel_answers import DISSENT_S, Dissent, Primary
from .sentinel_errors import NotPrimaryError, SentinelError
from .sentinels import Sentinels
from .urls import Address

LOOK_S = 0.5
"""Seconds between two questions to the Sentinels while the client is used."""
_IDLE_S = 3.0
"""Seconds after its last use for which a client goes on asking."""
_END_S = 1.0
"""The longest wait, in seconds, for the end of the last question when the client is closed."""
_DEMOTED = frozenset({"READONLY", "UNBLOCKED", "MASTERDOWN"})
"""Replies of a server that is no primary any more."""
_DOUBTFUL = _DEMOTED | {"NOREPLICAS", "LOADING"}

log = logging.getLogger("rollstream")


class PrimaryPool(ConnectionPool):
    """Connections to the primary. A class made of this and of the pool that the client wants is used.

    `primary` is set by the call that has asked the Sentinels, between two awaits, and `failovers` grows with it.
    """

    is_master = True  # redis-py's connection asks for these two
    check_connection = False

    def __init__(self, *given: Any, sentinels: Sentinels, service: str, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.connection_kwargs["connection_pool"] = weakref.proxy(self)
        self.primary: Primary | None = None
        """What the Sentinels said last."""
        self.failovers = 0
        """How often that was another primary than before."""
        self._sentinels = sentinels
        self.service = service
        self._asking: asyncio.Future[Primary] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._used_at = 0.0
        self._is_closed = False
        self._doubted = asyncio.Event()
        self._dissent = Dissent()
        self._told = ""

    async def get_connection(self, *command: Any, **options: Any) -> AbstractConnection:
        """An open connection to the primary. Raises `RedisError`."""
        self._used_at, self._is_closed = time.monotonic(), False
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        pool: Any = super()  # redis-py does not type it
        connection: AbstractConnection = await pool.get_connection(*command, **options)
        return connection

    async def get_master_address(self) -> Address:
        """Where to connect now. Calls at the same time share one question. Raises `SentinelError`."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._sentinels.discover(self.service))
            self._asking.add_done_callback(self._asked)
        found = await asyncio.shield(self._asking)
        await self._take(found)
        return found.address

    def doubt(self) -> None:
        """The server may be the primary no more: ask at once."""
        self._doubted.set()

    async def aclose(self) -> None:
        """Close all connections, and those to the Sentinels. Returns once nobody asks any more."""
        self._is_closed = True
        if self._watching is not None:
            self._watching.cancel()
        await super().aclose()
        await self._sentinels.aclose()
        if self._watching is not None:  # redis-py may lose the cancellation: then the watch ends after its question
            await asyncio.wait([self._watching], timeout=_END_S)

    def _asked(self, asking: asyncio.Future[Primary]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # marks the error as seen: the call that waited for it may be gone

    async def _take(self, found: Primary) -> None:
        before, self.primary = self.primary, found
        if before is not None and found.is_other_than(before):
            self.failovers += 1
            await super().disconnect(inuse_connections=True)

    async def _watch(self) -> None:
        while not self._is_closed and (self._in_use_connections or time.monotonic() - self._used_at < _IDLE_S):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._doubted.wait()
            try:
                await self._look()
            except exceptions.RedisError:
                pass  # who needs a connection meets it too
            except Exception as error:  # noqa: BLE001 - a task's rim: without it nobody would look for failovers
                self._tell(printable(f"{type(error).__name__}: {error}"))

    def _tell(self, failure: str) -> None:
        if failure != self._told:
            self._told = failure
            log.error("redis: cannot ask the Sentinels of %r, trying again: %s", self.service, failure)

    async def _look(self) -> None:
        is_doubted = self._doubted.is_set()
        self._doubted.clear()
        if is_doubted:
            await self.get_master_address()
            await asyncio.sleep(LOOK_S / 5)
        elif (told := await self._sentinels.next_answer(self.service)) is not None and self.primary is not None:
            try:
                if told.is_other_than(self.primary):
                    await self.get_master_address()  # one Sentinel may be behind: they are all asked
            finally:
                self._note(told, self.primary)

    def _note(self, told: Primary, ours: Primary) -> None:
        if self._dissent.is_lasting(told, told.address != ours.address, time.monotonic()):
            log.warning(
                "redis: Sentinel %s has named %s as the primary of %r for %d s, and %s is believed: see SENTINEL MASTER"
                " at each Sentinel, and rollstream doctor",
                *(told.told_by, told, self.service, DISSENT_S, ours),
            )

    async def sentinel_answers(self) -> list[Primary | SentinelError]:
        """What each Sentinel says."""
        return await self._sentinels.all_answers(self.service)


class PrimaryConnection(SentinelManagedConnection):
    """A connection to the primary. A class made of this and of the client's own kind of connection is used."""

    connection_pool: PrimaryPool

    async def connect_to(self, address: Address) -> None:
        """Connect. Raises `NotPrimaryError` if it is none, `ConnectionError` if another was promoted meanwhile."""
        await super().connect_to(address)  # type: ignore[no-untyped-call] # redis-py's
        now = self.connection_pool.primary
        if now is not None and now.address != address:
            await self.disconnect(nowait=True)
            raise exceptions.ConnectionError(f"{address[0]}:{address[1]} is the primary no more")

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Log in, and see that it is a primary: HELLO needs no right, and a server without it is believed."""
        await super().on_connect_check_health(check_health)
        await self.send_command("HELLO", 2, check_health=False)
        try:
            told = await super().read_response(disable_decoding=True)
        except exceptions.ResponseError:
            return
        if isinstance(told, list) and b"replica" in told:  # names and values in turn; no other value is this word
            service, problem = self.connection_pool.service, f"{self.host}:{self.port} is a replica"
            raise NotPrimaryError(service, f"{problem}, and the Sentinels call it the primary of {service!r}")

    async def read_response(self, *given: Any, **options: Any) -> Any:
        """A reply. A server that was demoted is left at once: what it has may be old."""
        try:
            return await super().read_response(*given, **options)
        except exceptions.ResponseError as error:
            code = code_of(error)
            if code in _DOUBTFUL:
                self.connection_pool.doubt()
            if code in _DEMOTED:
                await self.disconnect(nowait=True)
            raise


def failovers_of(redis: Redis) -> int:
    """How many failovers this client has seen: before each, what was written last may be lost."""
    # A client of several servers counts by itself.
    return int(getattr(redis, "failovers", getattr(redis.connection_pool, "failovers", 0)))


def primary_of(redis: Redis) -> Primary | None:
    """The primary that the client was told of; None without Sentinels, and before its first command."""
    pool = redis.connection_pool
    return pool.primary if isinstance(pool, PrimaryPool) else None


async def sentinel_answers(redis: Redis) -> list[Primary | SentinelError]:
    """What each Sentinel of the URL says now; nothing without Sentinels."""
    pool = redis.connection_pool
    return await pool.sentinel_answers() if isinstance(pool, PrimaryPool) else []
