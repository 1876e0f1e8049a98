"""Bounds how many tokens an engine scores at once: what that takes of its memory is in no budget of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class ScoreGate:
    """Lets rows into the engine in the order in which they came, while all together have few enough tokens.

    A row that is longer than the bound goes in alone. It changes only in the worker's event loop, and never across an
    await.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        """`most`: the bound, in tokens; asked with each row, because it may follow from what the engine says."""
        self._most = most
        self._inside = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def passed(self, tokens: int) -> AsyncIterator[None]:
        """Inside this context a row of so many tokens is in the engine."""
        opened = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, opened))
        self._open()
        try:
            await opened
            yield
        finally:
            if opened.cancelled():
                with suppress(ValueError):
                    self._waiting.remove((tokens, opened))
            else:
                self._inside -= tokens
            self._open()

    def _open(self) -> None:
        while self._waiting and (not self._inside or self._inside + self._waiting[0][0] <= self._most()):
            tokens, opened = self._waiting.popleft()
            if not opened.cancelled():
                self._inside += tokens
                opened.set_result(None)
