"""Two readings of Redis a second for everybody who looks, and none while nobody does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, Protocol

from rollstream.schemas.printable import printable, without_credentials

from ...errors import RedisUnavailableError
from ..fleet import Fleet
from .fleet_json import fleet_json, to_json

EVERY_S = 0.5
"""Seconds from the beginning of one reading to that of the next."""
_SILENT_S = 2.0
"""After so many seconds without an answer Redis counts as away, though the reading goes on."""
_PATIENCE_S = 15.0
"""After so many it is given up."""
_FRESH_S = 3.0
"""An older reading says nothing about now."""


class ReadsFleet(Protocol):
    """What takes a reading."""

    async def read(self) -> Fleet:
        """Raises `RedisUnavailableError`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message for all that look, encoded once."""

    number: int
    name: str
    """`fleet` or `down`."""
    data: bytes
    """JSON on one line."""
    at: float
    """Seconds of the monotonic clock."""


class Watcher:
    """One that looks. It is told the newest reading whenever it asks; those between are not kept for it."""

    def __init__(self, readings: LiveReadings) -> None:
        self._readings = readings
        self._seen = 0
        self.woken = asyncio.Event()

    async def news(self) -> list[Event]:
        """Wait until there is something new: the newest reading, that Redis is away, or both. Empty once closed."""
        while not self._readings.closed.is_set():
            self.woken.clear()
            if new := [event for event in self._readings.told() if event.number > self._seen]:
                self._seen = max(event.number for event in new)
                return new
            await self.woken.wait()
        return []


class LiveReadings:
    """The task `run` alone reads, and only it changes what was read, between two awaits of one event loop."""

    def __init__(self, *, reader: ReadsFleet, every_s: float = EVERY_S) -> None:
        self._reader = reader
        self._every_s = every_s
        self._watchers: set[Watcher] = set()
        self._looked_at = asyncio.Event()
        self._clock: Callable[[], float] = time.monotonic
        self._numbers = 0
        self._fleet: Event | None = None
        self._down: Event | None = None
        self._began_at = 0.0
        """Unix seconds at which the last reading began."""
        self._down_since: float | None = None
        self.closed = asyncio.Event()
        """Set by `close`."""

    @property
    def watchers(self) -> int:
        """How many look."""
        return len(self._watchers)

    @contextmanager
    def watching(self) -> Iterator[Watcher]:
        """Look, for the length of the block."""
        watcher = Watcher(self)
        self._watchers.add(watcher)
        self._looked_at.set()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._looked_at.clear()

    def told(self) -> list[Event]:
        """What one that begins to look is told at once: the last reading, too, if Redis is away now."""
        oldest = self._clock() - _FRESH_S
        down = self._down if self._down is not None and self._down.at > oldest else None
        is_shown = self._fleet is not None and (down is not None or self._fleet.at > oldest)
        return [event for event in (self._fleet if is_shown else None, down) if event is not None]

    async def newest(self) -> Event:
        """A reading of now, or that Redis is away. Raises `TimeoutError`, also once closed."""
        with self.watching() as watcher:
            async with asyncio.timeout(_PATIENCE_S):
                if not (events := await watcher.news()):
                    raise TimeoutError
        return events[-1]

    async def run(self) -> NoReturn:
        """Read while anybody looks. A slow reading is followed by a pause of its own length: none pile up."""
        while True:
            await self._looked_at.wait()
            began = self._clock()
            await self._read()
            took = self._clock() - began
            await asyncio.sleep(max(self._every_s - took, took))

    def close(self) -> None:
        """Tell all that look that there will be nothing more."""
        self.closed.set()
        self._wake()

    async def _read(self) -> None:
        self._began_at = time.time()
        silent = f"Redis has not answered for {_SILENT_S:g} s"
        warning = asyncio.get_running_loop().call_later(_SILENT_S, self._tell_down, silent)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                fleet = await self._reader.read()
        except RedisUnavailableError as error:
            self._tell_down(f"Redis at {error.url}: {error.problem}; {error.advice}")
        except TimeoutError:
            self._tell_down(f"Redis has not answered for {_PATIENCE_S:g} s")
        else:
            self._down = self._down_since = None
            self._fleet = self._event("fleet", fleet_json(fleet))
            self._wake()
        finally:
            warning.cancel()

    def _tell_down(self, why: str) -> None:
        if self._down_since is None:
            self._down_since = self._began_at
        told = {"since": self._down_since, "why": printable(without_credentials(why))}
        self._down = self._event("down", to_json(told))
        self._wake()

    def _event(self, name: str, data: bytes) -> Event:
        self._numbers += 1
        return Event(number=self._numbers, name=name, data=data, at=self._clock())

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.woken.set()
