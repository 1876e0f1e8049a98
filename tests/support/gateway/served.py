"""A gateway in the test's own event loop, and clients that ask it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

from rollstream import AsyncClient, GroupResult
from rollstream.producer.gateway.gate import Bounds, Gate, Rules
from rollstream.producer.gateway.make_site import make_site
from rollstream.producer.gateway.serve import run
from rollstream.producer.gateway.settings import GatewaySettings
from rollstream.producer.gateway.site import Site
from rollstream.producer.http.server import Server
from rollstream.producer.http.sockets import known_hosts, open_socket
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys

TOKEN = "a-token-of-some-length"
WAIT_S = 30.0
USER = [{"role": "user", "content": "two and two"}]


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A gateway that listens, OpenAI's client of it, and a plain one."""

    site: Site
    server: Server
    openai: AsyncOpenAI
    http: httpx.AsyncClient
    policy: str

    @property
    def port(self) -> int:
        return int(self.http.base_url.port or 0)

    @property
    def gate(self) -> Gate:
        gate = self.server.config.app
        assert isinstance(gate, Gate)
        return gate

    async def complete(self, **asked: Any) -> httpx.Response:
        """POST /v1/completions, as plain JSON."""
        headers = asked.pop("headers", {})
        told = {"model": self.policy, "prompt": [5, 6, 7], "max_tokens": 8, **asked}
        return await self.http.post("/v1/completions", json=told, headers=headers)

    async def chat(self, **asked: Any) -> httpx.Response:
        """POST /v1/chat/completions, as plain JSON."""
        headers = asked.pop("headers", {})
        told = {"model": self.policy, "messages": USER, "max_tokens": 8, **asked}
        return await self.http.post("/v1/chat/completions", json=told, headers=headers)


@asynccontextmanager
async def gateway_of(
    redis_url: str, policy: str, tokenizer: Path, *, token: str | None = TOKEN, hosts: bool = True, **changes: Any
) -> AsyncIterator[Gateway]:
    """A gateway of this policy at a free port; `changes` of any of its settings."""
    bounds = changes.pop("bounds", Bounds(most_body=2**20, most_requests=1024))
    reconnect_s = changes.pop("reconnect_s", 10.0)
    settings = GatewaySettings(redis=redis_url, policy=policy, tokenizer=tokenizer, bounds=bounds, **changes)
    listening = open_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    keys = Keys(policy, partitions=settings.partitions)
    connection = Connection(access=redis_url, reconnect_s=1, keys=keys)
    client = AsyncClient(redis_url, policy=policy, partitions=settings.partitions, reconnect_s=reconnect_s)
    rules = Rules(token=token, hosts=known_hosts("127.0.0.1", "127.0.0.1") if hosts else None, bounds=bounds)
    site = make_site(settings, rules=rules, client=client, connection=connection, keys=keys)
    loop = asyncio.get_running_loop()
    started: asyncio.Future[Server] = loop.create_future()

    def listens(server: Server) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # they mean the tests, and would end this server in silence
        started.set_result(server)

    running = asyncio.ensure_future(run(site, listening, listens, grace_s=settings.grace_s))
    try:
        server = await started
        url = f"http://127.0.0.1:{port}"
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with (
            httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers=headers) as http,
            AsyncOpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0, timeout=WAIT_S) as openai,
        ):
            yield Gateway(site=site, server=server, openai=openai, http=http, policy=policy)
        server.should_exit = True
        await running
    finally:
        running.cancel()
        await asyncio.wait({running})
        await client.aclose()
        await connection.aclose()


async def results_of(trainer: AsyncClient, answer_id: str) -> list[GroupResult]:
    """What Redis has of the batch that an answer names."""
    handle = await trainer.attach(answer_id.partition("-")[2])
    found = await handle.finished()
    return [one for one in sorted(found, key=lambda one: one.group) if isinstance(one, GroupResult)]
