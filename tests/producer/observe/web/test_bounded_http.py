"""Connections that ask nothing, take nothing or are too many come to an end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from rollstream.producer.http import bounded_http, sockets
from rollstream.producer.observe.web import bodies
from rollstream.producer.observe.web.live_readings import LiveReadings
from tests.support.watching.invented_fleet import InventedReader, invented_fleet
from tests.support.watching.served_page import WAIT_S, Served, served
from tests.support.worker_process import until_true


async def closed(reader: asyncio.StreamReader) -> bool:
    """Whether the server closes the connection, rather than leave it open."""
    try:
        async with asyncio.timeout(WAIT_S):
            return await reader.read() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nhost: loc"])
async def test_a_connection_without_a_whole_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, page: Served, begun: bytes
) -> None:
    monkeypatch.setattr(bounded_http, "_SILENT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
    writer.write(begun)

    assert await closed(reader)
    writer.close()


async def test_half_a_request_after_an_answer_is_not_waited_for_either(
    monkeypatch: pytest.MonkeyPatch, page: Served
) -> None:
    monkeypatch.setattr(bounded_http, "_SILENT_S", 0.05)
    monkeypatch.setattr(page.server.config, "timeout_keep_alive", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
    writer.write(b"HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n" + b"HEAD / HTTP/1.1\r\n")
    answer = await reader.readuntil(b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert await closed(reader)
    writer.close()


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, guarded: Served) -> None:
    monkeypatch.setattr(bodies, "_PATIENCE_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", guarded.port)
    head = b"POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n"
    writer.write(head + b"content-length: 100\r\n\r\ntoken=")
    async with asyncio.timeout(WAIT_S):
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 408 ")
    writer.close()


WAITING = (
    b"",
    b"GET /login HTTP/1.1\r\nhost: loc",
    b"POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n"
    b"content-type: application/x-www-form-urlencoded\r\n\r\ntok",
)


@pytest.mark.parametrize("begun", WAITING)
async def test_as_many_connections_as_there_may_be_shut_nobody_out_while_they_ask_nothing(
    guarded: Served, begun: bytes
) -> None:
    open_ones = guarded.server.server_state.connections
    tasks = guarded.server.server_state.tasks
    taken = [await connected(guarded, begun) for _ in range(bounded_http.MOST_CONNECTIONS)]
    await until_true(lambda: len(open_ones) == len(taken))
    await until_true(lambda: not begun.startswith(b"POST") or len(tasks) == len(taken))

    assert (await guarded.http.get("/login")).status_code == 200
    assert len(open_ones) == len(taken)
    assert await closed(taken[0][0])
    for _, writer in taken:
        writer.close()


async def test_what_is_being_answered_gives_way_to_another_address_alone(
    monkeypatch: pytest.MonkeyPatch, page: Served
) -> None:
    monkeypatch.setattr(bounded_http.BoundedHttp, "most_connections", 2)
    watch = b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n"
    taken = [await connected(page, watch) for _ in range(2)]
    await until_true(lambda: page.site.readings.watchers == 2)
    late = await connected(page)
    late_is_closed = await closed(late[0])
    watched_on = page.site.readings.watchers
    other = await connected(page, b"HEAD /login HTTP/1.1\r\nhost: localhost\r\n\r\n", address="127.0.0.2")
    answer = await other[0].readuntil(b"\r\n\r\n")

    assert (late_is_closed, watched_on) == (True, 2)
    assert answer.startswith(b"HTTP/1.1 303 ")
    await until_true(lambda: page.site.readings.watchers == 1)
    for _, writer in [*taken, late, other]:
        writer.close()


async def connected(
    page: Served, begun: bytes = b"", address: str = "127.0.0.1"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection from this address that has sent so much."""
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port, local_addr=(address, 0))
    writer.write(begun)
    return reader, writer


async def test_a_browser_that_takes_nothing_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_UNSENT_MS", 300)
    fleet = invented_fleet()
    large = replace(fleet, workers=fleet.workers * 500)
    async with served(readings=LiveReadings(reader=InventedReader(large), every_s=0)) as page:
        reader, writer = await asyncio.open_connection("127.0.0.1", page.port, limit=1)
        writer.write(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await until_true(lambda: page.site.readings.watchers == 1)
        await until_true(lambda: page.site.readings.watchers == 0)
        writer.close()
        assert (await page.http.get("/api/session")).status_code == 200
    del reader
