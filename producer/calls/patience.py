"""A long wait tells what it waits for: the logger `rollstream` warns after ten seconds, then at doubling intervals.

When a call with a time limit fails, its error has the same text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from rollstream.schemas.printable import printable, without_credentials

from ..errors import ProducerError


def _shown(record: logging.LogRecord) -> bool:
    """Make a warning safe for a terminal: it may hold texts from workers and from Redis."""
    record.msg, record.args = printable(without_credentials(record.getMessage())), None
    return True


log = logging.getLogger("rollstream")
log.addFilter(_shown)

FIRST_S = 10.0
"""Seconds until the first warning; the next one comes after twice as long, and so on."""
_SHORTEST_S = 0.05
"""A call with a shorter time limit only looks, so nothing is asked for its error."""
_SILENT = "Redis does not answer"


class Overdue:
    """Around a wait that knows what it waits for: `told(seconds so far)` gives the text.

    All of it changes in the event loop of the wait: at its beginning, with each warning, and at its end.
    """

    def __init__(self, told: Callable[[float], str]) -> None:
        self._told = told
        self._seconds = self._interval = FIRST_S

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._interval, self._say)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._timer.cancel()

    def _say(self) -> None:
        log.warning("%s", self._told(self._seconds))
        self._interval *= 2
        self._seconds += self._interval
        self._timer = self._loop.call_later(self._interval, self._say)


class Patience:
    """Around a wait that has to ask Redis what it waits for. It asks only when the text is needed.

    That is after ten seconds without `progressed`, and shortly before the end of a time limit, for the error. `told` is
    the last answer, empty before the first.

    All of it changes in the event loop of the wait. `progressed` sets when the next warning is due, `_look` and
    `_tell`, which a timer starts, set the next look and `told`; leaving the block ends both.
    """

    def __init__(
        self,
        *,
        what: str,
        ask: Callable[[], Awaitable[str]],
        timeout: float | None,
        said: dict[str, float] | None = None,
    ) -> None:
        """`said`: shared by several waits, so that only one of them logs the same text at a time."""
        self.told = ""
        self._said = {} if said is None else said
        self._what = what
        self._ask = ask
        # When to ask for the error of a time limit; None without one, and once that was done.
        self._last_look = None if timeout is None or timeout < _SHORTEST_S else timeout - min(1.0, timeout / 3)
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self.progressed()
        self._arm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._asking is not None and not self._asking.done():
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def progressed(self) -> None:
        """Something has arrived: the ten seconds begin again."""
        self._quiet_since, self._interval = self._elapsed, FIRST_S
        self._warn_at = self._quiet_since + FIRST_S

    @property
    def _elapsed(self) -> float:
        return self._loop.time() - self._began

    def _arm(self) -> None:
        next_look = self._warn_at if self._last_look is None else min(self._warn_at, self._last_look)
        self._timer = self._loop.call_at(self._began + next_look, self._look)

    def _look(self) -> None:
        is_last = self._last_look is not None and self._elapsed >= self._last_look
        if is_last:
            self._last_look = None
        if is_last or self._elapsed >= self._warn_at:
            self._asking = self._loop.create_task(self._tell())
        else:
            self._arm()

    async def _tell(self) -> None:
        self.told = self.told or _SILENT
        try:
            self.told = await self._ask()
        except TimeoutError:
            self.told = _SILENT
        except ProducerError as error:
            self.told = str(error)
        if self._elapsed >= self._warn_at:
            self._warn()
            self._interval *= 2
            self._warn_at = self._elapsed + self._interval
        self._arm()

    def _warn(self) -> None:
        now = self._loop.time()
        for text in [text for text, at in self._said.items() if at <= now - FIRST_S]:
            del self._said[text]
        if self.told not in self._said:
            self._said[self.told] = now
            log.warning("%s, after %.0f s: %s", self._what, self._elapsed - self._quiet_since, self.told)
