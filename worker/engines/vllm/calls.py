"""Every call to vLLM ends: with its answer, at its time limit, or when the engine dies. Imports no vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rollstream.transport.redis.lost_cancellations import cancellations

from ...errors import EngineDiedError

T = TypeVar("T")


class Calls:
    """The calls to one engine. `dead` is what vLLM raises when the engine's process has ended.

    vLLM itself lets utility calls wait for ever when the engine dies, and any call when it is shut down.
    """

    def __init__(self, *, dead: type[Exception], step_limit_s: float, load_limit_s: float) -> None:
        self._dead = dead
        self._step_limit_s = step_limit_s
        self._load_limit_s = load_limit_s
        self._running: set[asyncio.Task[Any]] = set()
        self._no_load = asyncio.Event()
        self._no_load.set()
        self.death: str | None = None
        """Why the engine is gone; None while it lives."""
        self.on_death: Callable[[], None] = _nothing
        """Called once, when the engine is known to be dead and no call has ended for it yet."""

    async def answer(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of `call`, however long it takes. Raises `EngineDiedError` once the engine is known to be dead."""
        if self.death is not None:
            call.close()
            raise EngineDiedError(self.death)
        before = cancellations()
        task = asyncio.create_task(call)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await task
        except asyncio.CancelledError:
            if self.death is None or cancellations() > before:
                raise
            raise EngineDiedError(self.death) from None
        except self._dead as error:
            raise self.died("its process ended") from error

    async def utility(self, call: Coroutine[Any, Any, T]) -> T:
        """The same for a call that is answered between two steps; an engine that takes too long counts as dead."""
        return await self._within(self._step_limit_s, "no step", call)

    async def load(self, call: Coroutine[Any, Any, T]) -> T:
        """The same for a call that loads weights. When it ends, in whatever way, `loaded` returns."""
        self._no_load.clear()
        try:
            return await self._within(self._load_limit_s, "weights not loaded", call)
        finally:
            self._no_load.set()

    async def proof(self, call: Coroutine[Any, Any, T]) -> T:
        """The same for a row of a probe, which many steps may need; it has the time of a load."""
        return await self._within(self._load_limit_s, "a probe not scored", call)

    async def stepping(self, work: Awaitable[T], ping: Callable[[], Coroutine[Any, Any, object]]) -> T:
        """The result of `work`, however long it takes; an engine that answers no `ping` meanwhile counts as dead.

        Raises RuntimeError if `work` was cancelled and the caller was not.
        """
        before = cancellations()
        working = asyncio.ensure_future(work)
        try:
            while not working.done():
                await self.utility(ping())
                await asyncio.wait([working], timeout=0.2)
        finally:
            working.cancel()
        try:
            return await working
        except asyncio.CancelledError as error:
            if cancellations() > before:
                raise
            raise RuntimeError("it was given up") from error

    @property
    def loading(self) -> bool:
        """Whether weights are loaded now."""
        return not self._no_load.is_set()

    async def loaded(self) -> None:
        """Wait while weights are loaded: EngineCore answers calls in order, and a load has its own time limit."""
        while not self._no_load.is_set():  # the next load may begin before a waiter wakes
            await self._no_load.wait()

    @contextmanager
    def vital(self, problem: str) -> Iterator[None]:
        """Turn any error into the engine's death."""
        try:
            yield
        except EngineDiedError:
            raise
        except Exception as error:
            raise self.died(f"{problem}: {error}") from error

    def died(self, reason: str) -> EngineDiedError:
        """Declare the engine dead; returns the error to raise."""
        self.die(reason)
        return EngineDiedError(self.death)

    def die(self, reason: str) -> None:
        """Declare the engine dead and end every pending call. The first reason is kept."""
        is_news = self.death is None
        self.death = self.death or f"the vLLM engine is gone: {reason}"
        try:
            if is_news:
                self.on_death()
        finally:
            for task in self._running:
                task.cancel()

    async def _within(self, limit_s: float, what: str, call: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await self.answer(call)
        except TimeoutError:
            raise self.died(f"{what} in {limit_s:g} s") from None


def _nothing() -> None:
    """Default of `on_death`."""
