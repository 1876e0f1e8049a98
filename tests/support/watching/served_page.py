"""The page's server in the test's own event loop, and a client that asks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from rollstream.producer.http.server import Server
from rollstream.producer.http.sockets import open_socket
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.producer.observe.web.live_readings import LiveReadings
from rollstream.producer.observe.web.serve import RECONNECT_S, run
from rollstream.producer.observe.web.site import Site
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from tests.support.watching.invented_fleet import invented_site

TOKEN = "a-token-of-some-length"
WAIT_S = 30


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that listens, and a client with its URL."""

    site: Site
    server: Server
    http: httpx.AsyncClient

    @property
    def port(self) -> int:
        return int(self.http.base_url.port or 0)

    async def log_in(self) -> str:
        """Give the token, as a person does; returns what actions must carry."""
        done = await self.http.post("/login", data={"token": TOKEN}, headers={"origin": "null"})
        assert done.status_code == 303, done.text
        return str((await self.http.get("/api/session")).json()["csrf"])

    async def act(self, path: str, told: Any = None, **headers: str) -> httpx.Response:
        """Ask for an action as the page does, after `log_in`."""
        csrf = (await self.http.get("/api/session")).json()["csrf"]
        own = {"origin": str(self.http.base_url).rstrip("/"), "x-rollstream-csrf": csrf}
        return await self.http.post(f"/api/{path}", json=told or {}, headers={**own, **headers})

    @asynccontextmanager
    async def events(self) -> AsyncIterator[Events]:
        """Look, as an open page does."""
        async with self.http.stream("GET", "/events", timeout=httpx.Timeout(WAIT_S)) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            yield Events(response)


class Events:
    """What one page is told."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self, name: str = "") -> Any:
        """The data of the next event, or of the next of that name."""
        found = ""
        async for line in self._lines:
            kind, _, value = line.partition(": ")
            if kind == "event":
                found = value
            elif kind == "data" and name in {"", found}:
                return json.loads(value)
        raise AssertionError("the stream has ended")

    async def ended(self) -> bool:
        """Whether the stream comes to its end."""
        async for _line in self._lines:
            pass
        return True


@asynccontextmanager
async def served(**changes: Any) -> AsyncIterator[Served]:
    """A server of an invented fleet at a free port; `changes` of any field of its `Site`."""
    listening = open_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    site = invented_site(port=port, **changes)
    started: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(run(site, listening, started.set_result))
    try:
        server = await started
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as http:
            yield Served(site=site, server=server, http=http)
            server.should_exit = True
            await running
    finally:
        running.cancel()
        await asyncio.wait({running})
        await site.connection.aclose()


def reading(redis_url: str, keys: Keys) -> dict[str, Any]:
    """For `served`: a policy as it stands in this Redis."""
    connection = Connection(access=redis_url, reconnect_s=RECONNECT_S)
    reader = FleetReader(connection=connection, keys=keys)
    return {"connection": connection, "keys": keys, "readings": LiveReadings(reader=reader)}
