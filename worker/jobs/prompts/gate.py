"""Bounds what is under way at once where memory has no other budget: tokens that are scored, pixels, their bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Gate:
    """Lets work in, in the order in which it came, while all that is inside has a small enough size.

    What is larger than the bound goes in alone. It changes only in the worker's event loop, and never across an
    await.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        """`most`: the bound; asked each time, because it may follow from what the engine says."""
        self._most = most
        self._inside = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def passed(self, size: int) -> AsyncIterator[None]:
        """Inside this context work of this size is under way."""
        opened = asyncio.get_running_loop().create_future()
        self._waiting.append((size, opened))
        self._open()
        try:
            await opened
            yield
        finally:
            if opened.cancelled():
                with suppress(ValueError):
                    self._waiting.remove((size, opened))
            else:
                self._inside -= size
            self._open()

    def _open(self) -> None:
        while self._waiting and (not self._inside or self._inside + self._waiting[0][0] <= self._most()):
            size, opened = self._waiting.popleft()
            if not opened.cancelled():
                self._inside += size
                opened.set_result(None)
