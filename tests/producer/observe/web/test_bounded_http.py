"""Connections that ask nothing, take nothing or are too many come to an end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from rollstream.producer.observe.web import bodies, bounded_http, serve
from rollstream.producer.observe.web.live_readings import LiveReadings
from tests.support.invented_fleet import InventedReader, invented_fleet
from tests.support.served_page import WAIT_S, Served, served
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


async def test_connections_beyond_the_bound_are_closed_at_once(monkeypatch: pytest.MonkeyPatch, page: Served) -> None:
    monkeypatch.setattr(bounded_http, "MOST_CONNECTIONS", 2)
    monkeypatch.setattr(bounded_http, "_SILENT_S", 10 * WAIT_S)
    taken = [await asyncio.open_connection("127.0.0.1", page.port) for _ in range(2)]
    await until_true(lambda: len(page.server.server_state.connections) == 2)
    reader, writer = await asyncio.open_connection("127.0.0.1", page.port)

    assert await closed(reader)
    for _, open_writer in [*taken, (reader, writer)]:
        open_writer.close()
    await until_true(lambda: not page.server.server_state.connections)
    assert (await page.http.get("/api/session")).status_code == 200


async def test_a_browser_that_takes_nothing_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_UNSENT_MS", 300)
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
