"""A program in front of a queue that nobody serves, or of a Redis that is away, says so once, and again on a change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from rollstream.producer.observe.served import Served
from rollstream.producer.observe.web.serve import WebSettings, serve
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from tests.support.faults import Link
from tests.support.partials.partial_steps import serving


class Heard(logging.Handler):
    """What is logged, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.put_nowait(record.getMessage())

    async def next(self) -> str:
        """Waits for the next text."""
        return await asyncio.wait_for(self._texts.get(), 30)


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    logging.getLogger("rollstream").addHandler(heard)
    yield heard
    logging.getLogger("rollstream").removeHandler(heard)


@asynccontextmanager
async def looking(url: str, policy: str) -> AsyncIterator[None]:
    """One that looks a hundred times a second."""
    keys = Keys(policy)
    connection = Connection(access=url, reconnect_s=0, keys=keys)
    task = asyncio.ensure_future(Served(program="gateway", connection=connection, keys=keys, every_s=0.01).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        await connection.aclose()


async def test_each_change_is_logged_once(link: Link, policy: str, heard: Heard) -> None:
    told = []
    async with looking(link.url, policy):
        told.append(await heard.next())
        async with serving(link.url, policy):
            told.append(await heard.next())
        told.append(await heard.next())
        link.drop()
        told.append(await heard.next())

    nobody = f"gateway: requests wait: no worker serves policy {policy!r}: "
    assert [text[: len(nobody)] for text in (told[0], told[2])] == [nobody, nobody]
    assert told[1] == f"gateway: workers serve policy {policy!r} now"
    assert told[3].startswith("gateway: requests wait: cannot ask who serves the policy: Redis at ")


async def test_the_page_starts_without_redis_and_says_so(policy: str, heard: Heard) -> None:
    settings = WebSettings(
        redis="redis://:hunter2@127.0.0.1:1/0",
        policy=policy,
        partitions=1,
        host="127.0.0.1",
        port=0,
        token=None,
        allow_actions=False,
    )
    urls: list[str] = []
    page = asyncio.ensure_future(serve(settings, urls.append))
    try:
        told = await heard.next()
        assert not page.done()
    finally:
        page.cancel()
        await asyncio.wait({page})

    assert told.startswith(
        "page: requests wait: cannot ask who serves the policy: Redis at redis://***@127.0.0.1:1/0: "
    )
