"""Callers that ask for the same thing share one task and its result or error; a cancelled caller does not end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """At most one running task for each key."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[T]] = {}

    def __repr__(self) -> str:
        return f"<SingleFlight {sorted(self._running)}>"

    async def result(self, key: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the task that runs under `key`, or else of `start()`."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(start())
            task.add_done_callback(partial(self._done, key))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel the running tasks."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _done(self, key: str, task: asyncio.Task[T]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # marks the error as seen: all callers may have been cancelled
