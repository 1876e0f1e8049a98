"""What Kubernetes asks a worker: has it started, is it ready, does it live. Answered from memory alone.

No answer needs Redis or the event loop, so a Redis that is away makes no probe fail: nobody may kill a fleet of GPUs
for that. The event loop writes, threads that answer probes read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from http import HTTPStatus

from rollstream.schemas.hashes.worker_report import WorkerState
from rollstream.transport.metrics.pages import Ask, Page

STARTUP, READY, LIVE = "/startupz", "/readyz", "/healthz"
_TURN_S = 1.0
_SLACK = 1.5
"""The watchdog ends the worker by itself after `--engine-timeout-s`, and says why: a probe must not come before it."""


class Health:
    """How one worker is, from its first moment."""

    def __init__(
        self, *, engine_timeout_s: float, load_timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._limit_s = _SLACK * engine_timeout_s
        self._load_limit_s = load_timeout_s
        self._state: Callable[[], WorkerState] = lambda: WorkerState.STARTING
        self._paused_for: Callable[[], Collection[str]] = tuple
        self._is_loading: Callable[[], bool] = lambda: False
        self._is_started = False
        self._turned = self._stepped = self._loaded = 0.0
        """When the loop turned, the engine answered, and weights were still being loaded."""

    def follow(
        self,
        *,
        state: Callable[[], WorkerState],
        paused_for: Callable[[], Collection[str]],
        is_loading: Callable[[], bool],
    ) -> None:
        """From now on the worker says these. `is_loading`: it loads weights, during which no step may come for long."""
        self._state = state
        self._paused_for = paused_for
        self._is_loading = is_loading

    def started(self) -> None:
        """The engine is up. Until then nothing can be said of it: a start blocks all that could tell."""
        self._turned = self._stepped = self._clock()
        self._is_started = True

    def stepped(self) -> None:
        """The engine has just answered between two of its steps."""
        self._stepped = self._clock()

    async def run(self) -> None:
        """Show that the event loop turns, until cancelled."""
        while True:
            self.turned()
            await asyncio.sleep(_TURN_S)

    def turned(self) -> None:
        """The event loop turns."""
        self._turned = self._clock()
        self._loaded = self._turned if self._is_loading() else self._loaded

    def pages(self) -> dict[str, Ask]:
        """The answers by their paths."""
        return {STARTUP: self.startup, READY: self.ready, LIVE: self.live}

    def startup(self) -> Page:
        """Whether the engine is up. Then, and not before, `live` says whether it steps."""
        return _page(self._is_started, "started" if self._is_started else "starting")

    def ready(self) -> Page:
        """Whether it takes jobs: its engine is up, its version proven, and it is neither paused nor draining."""
        if why := self._fault():
            return _page(False, why)
        state = self._state()
        reasons = ", ".join(sorted(self._paused_for())) if state is WorkerState.PAUSED else ""
        return _page(state is WorkerState.SERVING, f"{state}: {reasons}" if reasons else state)

    def live(self) -> Page:
        """Whether the engine steps or idles and the event loop turns; yes while it starts."""
        why = self._fault()
        return _page(not why, why or "live")

    def _fault(self) -> str:
        """What stands still; empty if nothing does."""
        if not self._is_started:
            return ""
        now = self._clock()
        if now - self._turned > self._limit_s:
            return f"the event loop has stood still for {now - self._turned:.0f} s"
        is_loading = self._is_loading()  # the engine answers after a load, which has a limit of its own
        limit_s = self._limit_s + (self._load_limit_s if is_loading else 0.0)
        silent_s = now - (self._stepped if is_loading else max(self._stepped, self._loaded))
        return f"the engine has not answered for {silent_s:.0f} s" if silent_s > limit_s else ""


def _page(is_well: bool, said: str) -> Page:
    return Page(status=HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE, body=f"{said}\n".encode())
