"""Waits that end: each says what it waits for, and what was missing when its time is over."""

from __future__ import annotations

import asyncio
import faulthandler
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from benchmarks.support import report
from rollstream.schemas import RollstreamError

HUNG_S = 20.0
"""A process that has not ended so long after its limit is ended hard: its event loop does not turn any more."""


class TooLongError(RollstreamError):
    """Raised when a benchmark waits longer than it may; the text says for what, and what was missing."""


@dataclass(kw_only=True)
class Limit:
    """How long the whole benchmark may take. It begins when this is made."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    _slowest: dict[str, float] = field(default_factory=dict)
    _left_out: set[str] = field(default_factory=set)

    @property
    def left_s(self) -> float:
        """Seconds that are left; never below 0."""
        return max(0.0, self.began + self.seconds - time.monotonic())

    def end_hard_when_hung(self) -> None:
        """Print where all threads are and end the process if it still runs `HUNG_S` after the limit."""
        faulthandler.dump_traceback_later(self.left_s + HUNG_S, exit=True)

    def say(self, line: str) -> None:
        """Tell on stderr how far the benchmark is, and when that was."""
        report.say(f"{time.monotonic() - self.began:5.0f} s  {line}")

    def fits(self, what: str) -> bool:
        """Whether what was measured before, by its name, may be done once more: the slowest time of it is left."""
        if self._slowest.get(what, 0.0) < self.left_s:
            return True
        if what not in self._left_out:
            self._left_out.add(what)
            self.say(f"{what}: left out, {self.left_s:.0f} s are left")
        return False

    @contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        """Note how long the block takes, for `fits`."""
        began = time.monotonic()
        yield
        self._slowest[what] = max(self._slowest.get(what, 0.0), time.monotonic() - began)

    @asynccontextmanager
    async def within(self, seconds: float, what: str, missing: Callable[[], str]) -> AsyncIterator[None]:
        """Let the block take so long at most, and no longer than the limit leaves. Raises `TooLongError`."""
        seconds = min(seconds, self.left_s)
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise TooLongError(f"{what}: not within {seconds:.0f} s; {missing()}") from None
