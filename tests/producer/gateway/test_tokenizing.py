"""One thread makes tokens: what waits for it is bounded, short texts go first, and who waits too long is told why."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from rollstream.producer.gateway.chat import ChatFormat
from rollstream.producer.gateway.errors import ApiError
from rollstream.producer.gateway.tokenizing import Tokenizing
from tests.support.gateway.served import gateway_of

WAIT_S = 10.0


def asking(tokenizing: Tokenizing, work: Any, characters: int) -> asyncio.Task[Any]:
    return asyncio.ensure_future(tokenizing.apart(work, characters))


async def test_the_shortest_text_that_waits_is_next() -> None:
    tokenizing, free, order = Tokenizing(tokenizer=None, most_waiting=100), Event(), list[str]()
    running = asking(tokenizing, lambda: free.wait(WAIT_S), 10)
    await asyncio.sleep(0)
    waiting = [
        asking(tokenizing, lambda name=name: order.append(name), size) for name, size in (("long", 9), ("short", 1))
    ]
    await asyncio.sleep(0)
    free.set()
    await asyncio.gather(running, *waiting)

    assert order == ["short", "long"]


async def test_beyond_so_many_characters_no_text_waits_until_some_are_done() -> None:
    tokenizing, free = Tokenizing(tokenizer=None, most_waiting=100), Event()
    running = asking(tokenizing, lambda: free.wait(WAIT_S), 500)
    await asyncio.sleep(0)
    with pytest.raises(ApiError, match="too much text waits") as refused:
        await tokenizing.apart(int, 1)
    owed = asking(tokenizing, int, 0)
    free.set()

    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (429, "overloaded", 5)
    assert (await running, await owed, await tokenizing.apart(int, 500)) == (True, 0, 0)


async def test_a_turn_that_is_cancelled_holds_nobody_up() -> None:
    tokenizing, free = Tokenizing(tokenizer=None, most_waiting=100), Event()
    running = asking(tokenizing, lambda: free.wait(WAIT_S), 10)
    await asyncio.sleep(0)
    gone, after = asking(tokenizing, int, 1), asking(tokenizing, int, 2)
    await asyncio.sleep(0)
    gone.cancel()
    running.cancel()
    free.set()

    assert await after == 0


async def test_a_request_whose_text_waits_too_long_is_told_so(
    redis_url: str, policy: str, chat_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = Event()
    monkeypatch.setattr(ChatFormat, "whole", lambda *_asked, **_options: free.wait(WAIT_S) and [5])
    async with gateway_of(redis_url, policy, chat_tokenizer, timeout_s=0.1) as gateway:
        late = await gateway.chat()
        free.set()

    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
    assert "its text still waits for the tokenizer" in late.json()["error"]["message"]
