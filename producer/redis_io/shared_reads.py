"""Blocking reads of result streams, shared by all handles of a client: a few connections serve any number of waits.

The first waits each read for themselves. When there are more waits than reads, a read also serves others that are in no
read, up to an equal share of all. (Any result ends a read, and all its streams are asked for again, so a large read
costs more.) A wait cannot join a read that has begun. Therefore the last free read is kept short and takes all, so that
late waits are in no read only for a moment.
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
"""So many waits can share one read without making it slower."""


@dataclass(eq=False, slots=True, kw_only=True)
class _Waiter:
    """One wait. Until `entries` or `error` is set, once, it is in `SharedReads._idle` or part of a read.

    `SharedReads` alone changes it: a read sets `entries`, `error` or `is_alone` when it is answered, and the wait
    itself sets `has_left` when it ends.
    """

    key: str
    after: bytes
    count: int
    since: float
    """When the wait began."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    entries: Entries | None = None
    error: RedisUnavailableError | None = None
    is_alone: bool = False
    """Whether it must read alone, because Redis refused a read that it shared."""
    has_left: bool = False
    """Whether the wait has ended; a read may still include it."""

    @property
    def is_done(self) -> bool:
        return self.entries is not None or self.error is not None


class SharedReads:
    """The shared reads of one Redis, or of one partition of a cluster, where a command may name only one partition.

    `read` runs a command and repeats it while Redis is away; `waiting` is entered around a wait without a command.

    All of it changes between two awaits of one event loop, so it needs no lock: a wait is counted from its
    beginning to its end, is in `_idle` while no read includes it, and a read is counted from when its waits were
    chosen until it was answered or failed.
    """

    def __init__(
        self,
        *,
        read: Callable[[Callable[[Redis], Awaitable[Any]]], Awaitable[Any]],
        waiting: Callable[[], AbstractAsyncContextManager[None]],
        most: int,
        block_ms: int,
    ) -> None:
        self._read = read
        self._waiting = waiting
        self._most = most
        self._block_ms = block_ms
        self._clock = time.monotonic  # works even if the event loop has ended during a wait
        self._idle: list[_Waiter] = []
        self._waiters = 0
        """All waits, in a read or not."""
        self._reading = 0
        self._short = 0
        """Reads under way, and how many of them are short: usually none or one."""

    async def entries(self, key: str, after: bytes, count: int, *, is_patient: bool = False) -> Entries:
        """At most `count` entries of the stream `key` after `after`; none if nothing came within `block_ms`.

        `is_patient`: nothing has come for a long time, so the wait may join a later read; reads become fewer again.
        Raises `RedisUnavailableError` and what else `read` raises.
        """
        waiter = _Waiter(key=key, after=after, count=count, since=self._clock())
        self._idle.append(waiter)
        self._waiters += 1
        try:
            while not waiter.is_done:
                if self._reading:
                    await asyncio.sleep(0)  # so that waits that begin at the same time share a read
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
        """Make one read for waits that are in none."""
        is_short = self._reading + 1 == self._most > 1
        chosen = self._choose(leader, self._waiters if is_short else self._share)
        self._idle = [one for one in self._idle if one not in chosen]
        self._reading += 1
        self._short += is_short
        self._let_lead()
        with ExitStack() as under_way:  # ended by the answer, before the leader wakes, or by an error
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
        """How many waits share a long read, so that all long reads together have room for all."""
        return max(_FEW, ceil(self._waiters / max(1, self._most - 1)))

    def _choose(self, leader: _Waiter, most: int) -> list[_Waiter]:
        """The leader and those that have waited longest. A read has one position for each stream."""
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
    """Asks for no more entries in all than a single wait would; after a failed attempt for one entry a stream."""
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
    """Give the error to a single wait. If several shared the read, let each read alone, to find the one refused."""
    for one in chosen:
        if len(chosen) > 1 and not fault_of(error.__cause__).passes:
            one.is_alone = True
        else:
            one.error = RedisUnavailableError(error.what, error.url, error.problem, error.advice)
            one.error.__cause__ = error.__cause__
