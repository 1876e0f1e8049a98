"""The time that a draining worker leaves to what runs. What has not ended by then is handed over, and aborted."""

from __future__ import annotations

import asyncio

from ..jobs.keeping.keeper import Keeper


class Grace:
    """Begins once, with the drain. `over` is a context that raises `TimeoutError` when it is over."""

    def __init__(self, *, keeper: Keeper) -> None:
        self._keeper = keeper
        self._timer: asyncio.TimerHandle | None = None
        self.over = asyncio.timeout(None)

    def begin(self, seconds: float) -> None:
        """A grace may be cut short, so all is kept now, too."""
        if seconds:
            self._keeper.hurry()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._keeper.hand_over, self._expire)

    def end(self) -> None:
        """Nothing runs any more, or all of it was handed over."""
        if self._timer is not None:
            self._timer.cancel()
        self._keeper.end()

    def _expire(self) -> None:
        self.over.reschedule(asyncio.get_running_loop().time())
