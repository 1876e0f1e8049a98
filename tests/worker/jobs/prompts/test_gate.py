"""Rows enter the engine in turn, while all that are in it have few enough tokens."""

from __future__ import annotations

import asyncio

import pytest

from rollstream.worker.jobs.prompts.gate import Gate
from tests.support.worker_process import settled


class Rows:
    """Rows that stay in the engine until they are told to leave."""

    def __init__(self, most: int) -> None:
        self._gate = Gate(lambda: most)
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.inside: list[str] = []

    async def come(self, **rows: int) -> None:
        for name, tokens in rows.items():
            self._leave[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._pass(name, tokens))
        await settled()

    async def leave(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()
        await settled()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await settled()

    async def _pass(self, name: str, tokens: int) -> None:
        async with self._gate.passed(tokens):
            self.inside.append(name)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.remove(name)


async def test_rows_wait_in_the_order_in_which_they_came() -> None:
    rows = Rows(10)
    await rows.come(a=6, b=4, c=5, d=1)
    assert rows.inside == ["a", "b"]

    await rows.leave("b")
    assert rows.inside == ["a"], "the small row does not overtake the one before it"

    await rows.leave("a")
    assert rows.inside == ["c", "d"]


async def test_a_row_beyond_the_bound_goes_in_alone() -> None:
    rows = Rows(10)
    await rows.come(a=1, b=50, c=1)
    assert rows.inside == ["a"]

    await rows.leave("a")
    assert rows.inside == ["b"]

    await rows.leave("b")
    assert rows.inside == ["c"]


@pytest.mark.parametrize("cancelled", ["a", "b"], ids=["inside", "waiting"])
async def test_a_row_that_is_cancelled_gives_way(cancelled: str) -> None:
    rows = Rows(10)
    await rows.come(a=8, b=8, c=2)

    await rows.cancel(cancelled)

    assert rows.inside == (["b", "c"] if cancelled == "a" else ["a", "c"])


async def test_a_row_that_is_cancelled_as_its_turn_comes_leaves_the_way_open() -> None:
    rows = Rows(10)
    await rows.come(a=8, b=8, c=8)

    rows._leave["a"].set()
    rows._tasks["b"].cancel()
    await settled()

    assert rows.inside == ["c"]
