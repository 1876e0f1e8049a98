"""Blocking reads of result streams, shared by all who wait on one client: a few connections serve any number of them.

Each of the first handles that wait reads for itself, as if it were alone. With more of them, whoever begins a read
reads for others that are in no read, up to an equal share of all: each result ends a read, and the whole of it is asked
for again. A read goes on without those that come after it began: the last free one of the reads is kept short and takes
all, so that they wait for a moment only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from typing import Any, TypeAlias

from redis.asyncio import Redis

from rollstream.transport.redis.faults import fault_of

from ..errors import RedisUnavailableError

Entries: TypeAlias = list[tuple[bytes, dict[bytes, bytes]]]
_SHORT_MS = 50
_FEW = 16
"""Who share one read without its getting slower for any of them."""


@dataclass(eq=False, slots=True)
class _Waiter:
    """One who waits. `entries` or `error` is set once; until then it waits in `SharedReads._idle`, or a read has it."""

    key: str
    after: bytes
    count: int
    since: float
    """When it began to wait."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    entries: Entries | None = None
    error: RedisUnavailableError | None = None
    is_alone: bool = False
    """It shares no read: Redis refused one that it was in."""
    has_left: bool = False
    """It waits no more; a read may have it still."""

    @property
    def is_done(self) -> bool:
        return self.entries is not None or self.error is not None


class SharedReads:
    """Those of one Redis, or of one partition of a cluster, where no command names two.

    `read` makes a call that is sent again while Redis is away; `waiting` is around a wait without a call.
    """

    def __init__(
        self,
        read: Callable[[Callable[[Redis], Awaitable[Any]]], Awaitable[Any]],
        waiting: Callable[[], AbstractAsyncContextManager[None]],
        most: int,
        block_ms: int,
    ) -> None:
        self._read = read
        self._waiting = waiting
        self._most = most
        self._block_ms = block_ms
        self._clock = time.monotonic  # also there when the event loop has ended under a wait
        self._idle: list[_Waiter] = []
        self._waiters = 0
        """In a read or not."""
        self._reading = 0
        self._short = 0
        """Reads under way, and how many of them are short: none or one, but while one of before has not ended."""

    async def entries(self, key: str, after: bytes, count: int, *, is_patient: bool = False) -> Entries:
        """What the stream `key` has after `after`, at most `count`; nothing where none came in `block_ms`.

        `is_patient`: nothing came for long, and it may wait a moment to share a read, so that reads become few again.
        Raises `RedisUnavailableError` and what else `read` raises.
        """
        waiter = _Waiter(key, after, count, self._clock())
        self._idle.append(waiter)
        self._waiters += 1
        try:
            while not waiter.is_done:
                if self._reading:
                    await asyncio.sleep(0)  # those that come with it share its read
                if waiter in self._idle and self._reading < self._most and not (is_patient and self._short):
                    await self._lead(waiter)
                elif not waiter.is_done:
                    async with self._waiting():
                        await waiter.woken.wait()
                    waiter.woken.clear()
        finally:
            self._waiters -= 1
            waiter.has_left = True
            if waiter in self._idle:
                self._idle.remove(waiter)
            self._let_lead()
        if waiter.error is not None:
            raise waiter.error
        return waiter.entries or []

    async def _lead(self, leader: _Waiter) -> None:
        """One read for those that are in none."""
        is_short = self._reading + 1 == self._most > 1
        chosen = self._choose(leader, self._waiters if is_short else self._share)
        self._idle = [one for one in self._idle if one not in chosen]
        self._reading += 1
        self._short += is_short
        self._let_lead()
        with ExitStack() as under_way:  # ended by the answer, before whoever leads hears of it, or by what came instead
            under_way.callback(self._end, chosen, is_short=is_short)
            try:
                await self._read(_command(chosen, _SHORT_MS if is_short else self._block_ms, under_way.close))
            except RedisUnavailableError as error:
                _refuse(chosen, error)

    def _end(self, chosen: list[_Waiter], *, is_short: bool) -> None:
        self._reading -= 1
        self._short -= is_short
        self._settle(chosen)

    @property
    def _share(self) -> int:
        """Who read together, so that the long reads are enough for all."""
        return max(_FEW, ceil(self._waiters / max(1, self._most - 1)))

    def _choose(self, leader: _Waiter, most: int) -> list[_Waiter]:
        """The leader and those that wait longest. A stream is read from one place at a time."""
        if leader.is_alone:
            return [leader]
        places = {leader.key: leader.after}
        others = (one for one in self._idle if one is not leader and not one.is_alone)
        together = (one for one in others if places.setdefault(one.key, one.after) == one.after)
        return [leader, *islice(together, most - 1)]

    def _settle(self, chosen: list[_Waiter]) -> None:
        patient = self._clock() - self._block_ms / 1000
        for one in chosen:
            if not one.is_done and one.since <= patient:
                one.entries = []
            if one.is_done:
                one.woken.set()
            elif not one.has_left:
                self._idle.append(one)
        self._let_lead()

    def _let_lead(self) -> None:
        if self._idle and self._reading < self._most:
            self._idle[0].woken.set()


def _command(chosen: list[_Waiter], block_ms: int, answered: Callable[[], None]) -> Callable[[Redis], Awaitable[None]]:
    """Asks for no more at once than one alone would; where that does not get through, the next attempt asks for one."""
    streams: Any = {one.key: one.after for one in chosen}
    count = max(1, min(one.count for one in chosen) // len(streams))

    async def read(redis: Redis) -> None:
        nonlocal count
        asked, count = count, 1
        reply: Any = await redis.xread(streams, count=asked, block=block_ms)
        found = {key.decode(): entries for key, entries in reply or ()}
        for one in chosen:
            one.entries = found.get(one.key) or one.entries
        answered()

    return read


def _refuse(chosen: list[_Waiter], error: RedisUnavailableError) -> None:
    """Of several, the one that Redis refuses is not known: each is then read alone."""
    for one in chosen:
        if len(chosen) > 1 and not fault_of(error.__cause__).passes:
            one.is_alone = True
        else:
            one.error = RedisUnavailableError(error.what, error.url, error.problem, error.advice)
