"""Browsers see each reading, and what Redis is asked does not grow with how many of them look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.observe.web import event_stream
from rollstream.producer.observe.web.live_readings import EVERY_S, LiveReadings
from rollstream.schemas import Keys
from tests.support.watching.invented_fleet import InventedReader
from tests.support.watching.served_page import WAIT_S, Served, reading, served
from tests.support.worker_process import until_true

KEYS = Keys("math-7b", partitions=2)


@pytest.fixture
async def quick() -> AsyncIterator[tuple[Served, InventedReader]]:
    """A server that reads as often as it can."""
    reader = InventedReader()
    async with served(readings=LiveReadings(reader=reader, every_s=0)) as page:
        yield page, reader


async def test_ten_browsers_cost_one_reading_a_second_and_see_the_same(redis_url: str, server: Any) -> None:
    async with served(**reading(redis_url, KEYS)) as page, AsyncExitStack() as stack:
        looking = [await stack.enter_async_context(page.events()) for _ in range(10)]
        assert page.site.readings.watchers == 10
        server.config_resetstat()
        began = time.monotonic()
        seen = [[(await events.next("fleet"))["read_at"] for _ in range(3)] for events in looking]
        looked_s = time.monotonic() - began
        asked = server.info("commandstats")["cmdstat_time"]["calls"]

    assert len({tuple(times) for times in seen}) <= 2, "one may have come before the reading that the others saw first"
    assert asked <= looked_s / EVERY_S + 2


async def test_nobody_looks_and_redis_is_not_asked(quick: tuple[Served, InventedReader]) -> None:
    page, reader = quick
    for _ in range(20):
        assert (await page.http.get("/api/session")).status_code == 200
    assert reader.reads == 0

    async with page.events() as events:
        await events.next("fleet")
    await until_true(lambda: page.site.readings.watchers == 0)
    reads = reader.reads
    for _ in range(20):
        assert (await page.http.get("/api/session")).status_code == 200
    assert reader.reads <= reads + 1, "one may have been under way"


async def test_redis_goes_and_comes_back_and_the_page_is_told_since_when_and_why() -> None:
    with EmbeddedRedis() as redis:
        url = redis.url.replace("redis://", "redis://:secret@")
        async with served(**reading(redis.url, KEYS)) as page, page.events() as events:
            first = await events.next()
            redis.kill()
            down = await events.next("down")
            again = await events.next("down")
            async with page.events() as late:
                last = await late.next()
                told = await late.next()
            refused = await page.http.get("/api/fleet")
            redis.start()
            back = await events.next("fleet")
            assert (await page.http.get("/api/fleet")).json()["policy"] == KEYS.policy

        assert first["policy"] == KEYS.policy
        assert down["since"] == again["since"] == told["since"]
        assert first["read_at"] - 5 <= down["since"] <= time.time()
        assert str(redis.port) in down["why"]
        assert last["read_at"] >= first["read_at"], "one that begins to look is shown the last reading"
        assert (refused.status_code, refused.json()["since"]) == (503, down["since"])
        assert back["read_at"] > last["read_at"]

        async with served(**reading(url, KEYS)) as page, page.events() as events:
            wrong = await events.next("down")
        assert "secret" not in wrong["why"]
        assert "password" in wrong["why"]


async def test_a_connection_that_is_closed_while_redis_runs_is_not_told(redis_url: str, server: Any) -> None:
    async with served(**reading(redis_url, KEYS)) as page, page.events() as events:
        await events.next("fleet")
        server.client_kill_filter(_type="normal", skipme=True)
        assert (await events.next())["policy"] == KEYS.policy
        assert (await events.next())["policy"] == KEYS.policy


async def test_a_slow_browser_is_sent_the_newest_reading_and_not_those_between() -> None:
    readings = LiveReadings(reader=InventedReader(), every_s=0)
    running = asyncio.ensure_future(readings.run())
    sent: list[bytes] = []
    taken = asyncio.Semaphore(3)

    async def send(message: Any) -> None:
        await taken.acquire()
        sent.append(message.get("body", b""))

    stream = asyncio.ensure_future(event_stream.EventStream(readings)(SCOPE, forever, send))
    await until_true(lambda: len(sent) == 3)
    with readings.watching() as watcher:
        numbers = [(await watcher.news())[-1].number for _ in range(50)]
        taken.release()
        await until_true(lambda: len(sent) == 4)
        taken.release()
        await until_true(lambda: len(sent) == 5)
        (newest,) = readings.told()

    assert sent[3].count(b"event: ") == sent[4].count(b"event: ") == 1
    assert numbers == sorted(set(numbers))
    assert newest.number > numbers[-1] - 1
    assert read_at(sent[4]) > read_at(sent[2])
    for task in (stream, running):
        task.cancel()
    await asyncio.wait({stream, running})


async def test_a_browser_that_takes_nothing_does_not_hold_up_the_end() -> None:
    readings = LiveReadings(reader=InventedReader())
    taken = asyncio.Semaphore(1)

    async def send(_message: Any) -> None:
        await taken.acquire()

    stream = asyncio.ensure_future(event_stream.EventStream(readings)(SCOPE, forever, send))
    await until_true(taken.locked)

    readings.close()

    async with asyncio.timeout(WAIT_S):
        await stream


SCOPE: Any = {"type": "http", "method": "GET", "path": "/events"}


async def forever() -> Any:
    await asyncio.Event().wait()


def read_at(event: bytes) -> float:
    return float(event.partition(b'"read_at":')[2].partition(b",")[0])


async def test_more_browsers_than_the_bound_are_told_to_come_later(
    monkeypatch: pytest.MonkeyPatch, page: Served
) -> None:
    monkeypatch.setattr("rollstream.producer.observe.web.reads.MOST_STREAMS", 2)
    async with page.events() as one, page.events() as two:
        await one.next()
        await two.next()
        refused = await page.http.get("/events")
    await until_true(lambda: page.site.readings.watchers == 0)
    async with page.events() as again:
        await again.next()

    assert (refused.status_code, refused.json()) == (503, {"error": "2 pages look already"})


async def test_a_comment_keeps_a_quiet_stream_open(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(InventedReader):
        async def read(self) -> Any:
            await asyncio.Event().wait()

    monkeypatch.setattr(event_stream, "_QUIET_S", 0.01)
    async with served(reader=Slow()) as page, page.http.stream("GET", "/events") as response:
        lines = response.aiter_lines()
        assert [await anext(lines) for _ in range(4)] == ["retry: 1000", "", ": still here", ""]


async def test_a_server_that_ends_ends_its_streams(page: Served) -> None:
    async with page.events() as one, page.events() as two:
        await one.next()
        page.server.should_exit = True
        assert await one.ended()
        assert await two.ended()
    await until_true(lambda: not page.server.server_state.connections)
