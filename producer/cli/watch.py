"""Read again and again and show the latest: drawn in place on a terminal until q or Ctrl-C, else printed each time.

Reading and drawing go their own ways, so that a Redis that is away neither stops the clock on the screen nor the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..errors import RedisUnavailableError
from .views.fit import Lines
from .views.frame import Down

T = TypeVar("T")

_PATIENCE_S = 2.0
"""A reading that takes longer than this, and than two intervals, counts as no answer."""
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True, kw_only=True)
class Latest(Generic[T]):
    """The last good reading, and since when there has been none. Times are by the event loop's clock."""

    value: T
    read_at: float
    asked_at: float
    """When the reading under way began."""
    problem: str = ""
    """Why the last attempt failed; empty if it did not."""

    def down(self, now: float, patience_s: float) -> Down | None:
        """Since when Redis does not answer, counted from the last good reading; None if it does."""
        if not self.problem and now - max(self.asked_at, self.read_at) <= patience_s:
            return None
        for_s = now - self.read_at
        return Down(since=time.time() - for_s, for_s=for_s, why=self.problem or "no answer yet")


Draw = Callable[[Latest[T], Down | None, float, int, int], Lines]
"""Gives the lines of what was read last: that, whether Redis is away, seconds since the reading, width and height."""


@dataclass(slots=True, kw_only=True)
class _Reading(Generic[T]):
    """Readings that go on by themselves."""

    latest: Latest[T]
    changed: asyncio.Event
    ended: asyncio.Event
    """Set once a person or a signal asked for the end."""
    task: asyncio.Task[None]

    @property
    def goes_on(self) -> bool:
        """False also when reading failed with an error that is not Redis'."""
        return not self.ended.is_set() and not self.task.done()


async def watch(first: T, read: Callable[[], Awaitable[T]], draw: Draw[T], interval_s: float, console: Console) -> None:
    """Show `first`, then what `read` gives every `interval_s` seconds, until q or a signal that ends."""
    loop = asyncio.get_running_loop()
    patience_s = max(_PATIENCE_S, 2 * interval_s)

    def picture(latest: Latest[T]) -> Text:
        now = loop.time()
        width, height = console.size
        lines = draw(latest, latest.down(now, patience_s), now - latest.read_at, width, height)
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    async with _reading(first, read, interval_s) as reading:
        shown = picture(reading.latest)
        with _quiet_logs(), Live(shown, console=console, screen=True, auto_refresh=False) as live:
            while reading.goes_on:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reading.changed.wait(), min(1.0, interval_s))
                reading.changed.clear()
                live.update(picture(reading.latest), refresh=True)


async def repeat(show: Callable[[T], None], read: Callable[[], Awaitable[T]], first: T, interval_s: float) -> None:
    """Show `first` and every later reading until a signal that ends; stderr says when Redis goes and comes back."""
    told = False
    show(first)
    async with _reading(first, read, interval_s) as reading:
        while reading.goes_on:
            await reading.changed.wait()
            reading.changed.clear()
            problem = reading.latest.problem
            if bool(problem) != told:
                sys.stderr.write(f"rollstream: {f'{problem}; trying on' if problem else 'Redis answers again'}\n")
                sys.stderr.flush()
                told = bool(problem)
            if reading.goes_on and not problem:
                show(reading.latest.value)


@contextlib.asynccontextmanager
async def _reading(first: T, read: Callable[[], Awaitable[T]], interval_s: float) -> AsyncIterator[_Reading[T]]:
    """Read in a task of its own until the block ends. Raises what ended the reading, if it was not Redis' error."""
    now = asyncio.get_running_loop().time()
    latest = Latest(value=first, read_at=now, asked_at=now)
    changed, ended = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(_read_on(read, latest, changed, interval_s))
    try:
        with _ending(ended, changed):
            yield _Reading(latest=latest, changed=changed, ended=ended, task=task)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _read_on(
    read: Callable[[], Awaitable[T]], latest: Latest[T], changed: asyncio.Event, interval_s: float
) -> None:
    """Read for ever. An error that is not Redis' ends it."""
    loop = asyncio.get_running_loop()
    try:
        while True:
            await asyncio.sleep(max(0.0, latest.asked_at + interval_s - loop.time()))
            latest.asked_at = loop.time()
            try:
                latest.value = await read()
            except RedisUnavailableError as error:
                latest.problem = str(error)
            else:
                latest.problem, latest.read_at = "", loop.time()
            changed.set()
    finally:
        changed.set()


@contextlib.contextmanager
def _ending(ended: asyncio.Event, changed: asyncio.Event) -> Iterator[None]:
    """Set `ended` on q, Ctrl-C and signals that end; a terminal that changes its size is drawn at once."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        ended.set()
        changed.set()

    for number in _ENDS:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        with _keys(end):
            yield
    finally:
        for number in (*_ENDS, signal.SIGWINCH):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _keys(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` when q is pressed; keys are read one by one and not shown."""
    try:
        keyboard = sys.stdin.fileno()
    except (OSError, ValueError):
        keyboard = -1
    if keyboard < 0 or not os.isatty(keyboard):
        yield
        return
    before: Any = termios.tcgetattr(keyboard)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        if not (keys := os.read(keyboard, 64)) or b"q" in keys.lower():
            end()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Keep warnings of long waits out of the picture, which says the same."""
    log = logging.getLogger("rollstream")
    nowhere = logging.NullHandler()
    log.addHandler(nowhere)
    before, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.propagate = before
        log.removeHandler(nowhere)
