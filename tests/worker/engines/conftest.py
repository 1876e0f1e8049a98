"""A clock that a test steps, for engines that take a set time."""

from __future__ import annotations

import asyncio

import pytest

TURNS = 10
"""Of the event loop: enough for what one timer sets off."""


class SteppedClock:
    """The event loop's clock, which stands still until a test lets it go on: no timer depends on the machine."""

    def __init__(self, now: float) -> None:
        self._now = now

    def time(self) -> float:
        return self._now

    async def go_on(self, seconds: float) -> None:
        """What was ready has run before, and what became due has run after."""
        await self._settle()
        self._now += seconds
        await self._settle()

    async def go_on_until_done(self, *tasks: asyncio.Task[object], step_s: float = 0.5) -> None:
        async with asyncio.timeout_at(self._now + 1000):
            while not all(task.done() for task in tasks):
                await self.go_on(step_s)

    async def _settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> SteppedClock:
    loop = asyncio.get_running_loop()
    clock = SteppedClock(loop.time())
    monkeypatch.setattr(loop, "time", clock.time)
    return clock
