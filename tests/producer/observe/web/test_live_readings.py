"""One task reads: a slow reading holds up the next one and nobody who looks, and a defect ends the server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rollstream.producer.errors import RedisUnavailableError
from rollstream.producer.observe.fleet import Fleet
from rollstream.producer.observe.web import live_readings
from rollstream.producer.observe.web.live_readings import LiveReadings
from tests.support.watching.invented_fleet import InventedReader
from tests.support.watching.served_page import served
from tests.support.worker_process import until_true


class HeldReader(InventedReader):
    """A reading ends when `let_go` is set, or fails with `error`."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()
        self.began_at = 0.0
        self.error: Exception | None = None
        self.at_once = self.most_at_once = 0

    async def read(self) -> Fleet:
        self.began_at = time.time()
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.let_go.wait()
            if self.error is not None:
                raise self.error
            return await super().read()
        finally:
            self.at_once -= 1


@pytest.fixture
def reader() -> HeldReader:
    return HeldReader()


@pytest.fixture
async def readings(reader: HeldReader) -> AsyncIterator[LiveReadings]:
    readings = LiveReadings(reader=reader, every_s=0)
    reading = asyncio.ensure_future(readings.run())
    yield readings
    reading.cancel()
    await asyncio.wait({reading})


async def test_a_reading_that_takes_long_counts_as_down_and_still_comes(
    readings: LiveReadings, reader: HeldReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_readings, "_SILENT_S", 0.01)
    with readings.watching() as watcher, readings.watching():
        (down,) = await watcher.news()
        assert reader.at_once == 1
        began_at = reader.began_at
        reader.let_go.set()
        events = await watcher.news()

    assert json.loads(down.data)["why"] == "Redis has not answered for 0.01 s"
    assert json.loads(down.data)["since"] <= began_at
    assert [event.name for event in events] == ["fleet"]
    assert reader.most_at_once == 1


async def test_a_reading_that_never_ends_is_given_up(
    readings: LiveReadings, reader: HeldReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_readings, "_PATIENCE_S", 0.01)
    with readings.watching() as watcher:
        (down,) = await watcher.news()
        monkeypatch.setattr(live_readings, "_PATIENCE_S", 30)
        reader.let_go.set()
        while [event.name for event in await watcher.news()] != ["fleet"]:
            pass

    assert json.loads(down.data)["why"] == "Redis has not answered for 0.01 s"
    assert reader.most_at_once == 1


async def test_why_redis_is_away_is_told_without_its_password_and_escapes(
    readings: LiveReadings, reader: HeldReader
) -> None:
    reader.error = RedisUnavailableError("read", "redis://***@h:1", "went \x1b[2J to redis://u:secret@h", "look")
    reader.let_go.set()
    with readings.watching() as watcher:
        (down,) = await watcher.news()

    why = json.loads(down.data)["why"]
    assert "secret" not in why
    assert "\x1b" not in why
    assert why.startswith("Redis at redis://***@h:1: went \\x1b[2J to redis://***@h")


async def test_one_that_looks_after_a_long_time_is_shown_nothing_old(
    readings: LiveReadings, reader: HeldReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.let_go.set()
    with readings.watching() as watcher:
        await watcher.news()
    reader.let_go.clear()
    await until_true(lambda: reader.at_once == 0)
    assert [event.name for event in readings.told()] == ["fleet"]

    monkeypatch.setattr(live_readings, "_FRESH_S", 0)
    assert readings.told() == []


async def test_a_defect_in_the_readings_ends_the_server_with_it() -> None:
    class Broken(InventedReader):
        async def read(self) -> Any:
            raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        async with served(reader=Broken()) as page, page.events() as events:
            assert await events.ended()
