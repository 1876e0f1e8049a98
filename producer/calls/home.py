"""A client may be used in one event loop of one process, until it is closed. Elsewhere its calls would never end.

A socket belongs to the loop that opened it: a call that waits in another loop would not be woken. A forked process has
copies of the parent's sockets, and would read the parent's answers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis

from ..errors import ClientClosedError, ClientMisusedError

_CLOSE_S = 1.0
"""The longest time, in seconds, that closing waits for calls that were told to end."""


class Home:
    """The process that made a client, and the event loop of its first call."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: AsyncGenerator[None, None] | None = None

    async def enter(self, what: str, *clients: Redis) -> None:
        """Called before each use. Raises `ClientMisusedError` in another process or event loop."""
        check_process(what, self._pid)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._sockets = loop, _open_until_the_loop_ends(clients)
            await anext(self._sockets)
        elif self._loop is not loop:
            raise _elsewhere(what)

    def is_here(self, what: str) -> bool:
        """Whether there is something to close here. Raises `ClientMisusedError` while the client's own loop runs."""
        if self._loop is None or self._pid != os.getpid():
            return False
        if self._loop is asyncio.get_running_loop():
            return True
        if self._loop.is_running():
            raise _elsewhere(what)
        return False

    async def leave(self) -> None:
        """Close the sockets."""
        if self._sockets is not None:
            await self._sockets.aclose()


class OpenCalls:
    """The calls that wait for Redis. Closing ends them, so that none is left with a closed connection."""

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()
        self._ended = asyncio.Event()
        self._closed = False

    @asynccontextmanager
    async def open(self, what: str) -> AsyncIterator[None]:
        """Around one call. Raises `ClientClosedError` if the client is closed before the call or during it."""
        if self._closed:
            raise _closed(what)
        try:
            async with asyncio.timeout(None) as scope:
                self._scopes.add(scope)
                try:
                    yield
                finally:
                    self._scopes.discard(scope)
                    self._ended.set()
        except TimeoutError:  # only `end` sets a time limit
            raise _closed(what) from None

    def refuse(self) -> None:
        """Refuse every call from now on."""
        self._closed = True

    async def end(self) -> None:
        """End the calls under way; return once they have ended, after a second at the latest."""
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(now)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                while self._scopes:
                    self._ended.clear()
                    await self._ended.wait()


async def _open_until_the_loop_ends(clients: Sequence[Redis]) -> AsyncGenerator[None, None]:
    """Close the clients' sockets when the loop ends: `asyncio.run` closes asynchronous generators before the loop.

    So a client that was never closed leaves no socket and no warning. The generator must not refer to the client:
    otherwise it would keep alive a client that nothing else uses.
    """
    try:
        yield
    finally:
        for redis in clients:
            await redis.aclose()


def check_process(what: str, pid: int) -> None:
    """Raises `ClientMisusedError` in any other process than `pid`."""
    if os.getpid() != pid:
        problem = f"this client was made in process {pid}, of which this one is a fork; its connections stay there"
        remedy = "make a client in each process, after the fork, and `attach(batch_id)` for a batch of another"
        raise ClientMisusedError(what, problem, remedy)


def _elsewhere(what: str) -> ClientMisusedError:
    problem = "this client belongs to another event loop, that of its first call"
    remedy = (
        "make an AsyncClient in each `asyncio.run` and `attach(batch_id)` for a batch of an earlier one, or use "
        "Client, which may be used in every thread and loop"
    )
    return ClientMisusedError(what, problem, remedy)


def _closed(what: str) -> ClientClosedError:
    return ClientClosedError(f"cannot {what}: the client is closed")
