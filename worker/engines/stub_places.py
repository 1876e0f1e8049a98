"""How many sequences the stub runs at once, and that none runs while a swap waits for their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..engine import SwapMode


class Places:
    """`count` at once. Those who run count themselves; a swap, one at a time, lets none begin."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self.running = 0
        self._idle, self._admitting = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._admitting.set()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """For one sequence."""
        async with self._free:
            while not self._admitting.is_set():
                await self._admitting.wait()
            self.running += 1
            self._idle.clear()
            try:
                yield
            finally:
                self.running -= 1
                if not self.running:
                    self._idle.set()

    @asynccontextmanager
    async def ended(self, mode: SwapMode) -> AsyncIterator[None]:
        """In mode `wait` once no sequence runs, and none begins meanwhile."""
        if mode != "wait":
            yield
            return
        self._admitting.clear()
        try:
            await self._idle.wait()
            yield
        finally:
            self._admitting.set()
