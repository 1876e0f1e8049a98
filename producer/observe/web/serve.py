"""The server's process: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp

from rollstream.schemas import Keys
from rollstream.transport.acl import Role
from rollstream.transport.addresses import NO_SUCH_ADDRESS, is_of_host
from rollstream.transport.redis.access import RedisAccess

from ...batches.tokenizer_folder import read_tokenizer
from ...redis_io.connection import Connection
from ..read_fleet import FleetReader
from .bounded_http import BoundedHttp
from .errors import WebSetupError
from .live_readings import LiveReadings
from .sessions import ADVICE
from .site import Site, make_app
from .texts import Texts

EXIT_ENDED, EXIT_INTERRUPTED = 0, 130
RECONNECT_S = 0.3
"""A connection that is closed while Redis runs is opened again; after so many seconds Redis counts as away."""
_UNSENT_MS = 30_000
"""A browser that takes nothing for so long loses its connection."""
_GRACE_S = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """What `rollstream web` is started with."""

    redis: RedisAccess | str
    policy: str
    partitions: int
    host: str
    port: int
    """0 for any free one."""
    token: str | None
    allow_actions: bool
    tokenizer: Path | None = None
    """Folder of the model's tokenizer, for texts."""


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `WebSetupError`, which names the port if it is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise WebSetupError(f"--host {host}", NO_SUCH_ADDRESS) from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_MS)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        if is_of_host(error):
            raise WebSetupError(f"--host {host}", NO_SUCH_ADDRESS) from None
        advice = "give another --port, or --port auto for a free one"
        raise WebSetupError(f"port {port} of {host}", f"{error.strerror}; {advice}") from None
    return listening


def check_settings(settings: WebSettings, bound: str) -> None:
    """Whether so many may be let in. `bound`: the address that is listened at. Raises `WebSetupError`."""
    if settings.token is None and settings.allow_actions:
        raise WebSetupError("--allow-actions", f"actions need a token; {ADVICE}")
    if settings.token is None and not is_loopback(bound):
        raise WebSetupError(f"--host {settings.host}", f"others reach this address, so it needs a token; {ADVICE}")


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches it."""
    return ip_address(address.partition("%")[0]).is_loopback


def known_hosts(host: str, bound: str) -> frozenset[str] | None:
    """Names under which the server may be asked. Any, where others reach it: then the token keeps strangers out.

    At a loopback address another name means that a site in this machine's browser has pointed its own name here.
    """
    if not is_loopback(bound):
        return None
    return frozenset({"localhost", "127.0.0.1", "[::1]", in_url(host), in_url(bound)})


def in_url(host: str) -> str:
    """`host` as it stands in a URL."""
    return f"[{host}]".lower() if ":" in host else host.lower()


class Server(uvicorn.Server):
    """uvicorn, which waits for the end of each answer when it is told to end: streams of events are ended first."""

    def __init__(self, *, app: ASGIApp, started: Callable[[Server], None], close: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedHttp,
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=20,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        self._started = started
        self._close = close
        self.exit_code = EXIT_ENDED

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGTERM and SIGINT, with their exit codes; uvicorn would end by the signal itself."""
        loop = asyncio.get_running_loop()
        for number, code in ((signal.SIGTERM, EXIT_ENDED), (signal.SIGINT, EXIT_INTERRUPTED)):
            loop.add_signal_handler(number, self.end, code)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def end(self, exit_code: int) -> None:
        """Take no more requests and end."""
        self.exit_code = exit_code
        self.should_exit = True

    def end_with(self, _reading: asyncio.Future[NoReturn]) -> None:
        """End without the readings: `run` raises why they ended."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn once signals are handled."""
        await super().startup(sockets)
        self._started(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn once it is told to end."""
        self._close()
        await super().shutdown(sockets)


async def serve(settings: WebSettings, told: Callable[[str], None]) -> int:
    """Serve until a signal comes; returns the exit code. `told` gets the URL to open once the server listens.

    Raises `WebSetupError`, `PromptFileError` for the tokenizer, and `RedisUnavailableError` for a URL that is none.
    Redis itself may be away.
    """
    texts = None if settings.tokenizer is None else Texts(tokenizer=read_tokenizer(settings.tokenizer))
    listening = open_socket(settings.host, settings.port)
    bound, port = listening.getsockname()[:2]
    connection = None
    try:
        check_settings(settings, bound)
        keys = Keys(settings.policy, partitions=settings.partitions)
        connection = Connection(access=settings.redis, reconnect_s=RECONNECT_S, keys=keys, role=Role.OPERATOR)
        readings = LiveReadings(reader=FleetReader(connection=connection, keys=keys))
        site = Site(
            connection=connection,
            keys=keys,
            readings=readings,
            token=settings.token,
            hosts=known_hosts(settings.host, bound),
            allow_actions=settings.allow_actions,
            cookie=f"rollstream-{port}",
            texts=texts,
        )
        return await run(site, listening, lambda _server: told(url_of(settings.host, bound, port)))
    finally:
        listening.close()
        if connection is not None:
            await connection.aclose()


async def run(site: Site, listening: socket.socket, started: Callable[[Server], None]) -> int:
    """Serve the site at a socket; returns the exit code. `started` gets the server once it listens.

    If the readings fail by a defect, the server ends with it.
    """
    server = Server(app=make_app(site), started=started, close=site.readings.close)
    reading = asyncio.ensure_future(site.readings.run())
    reading.add_done_callback(server.end_with)
    try:
        await server.serve(sockets=[listening])
    finally:
        reading.cancel()
        await asyncio.wait({reading})
    if not reading.cancelled():
        reading.result()
    return server.exit_code


def url_of(host: str, bound: str, port: int) -> str:
    """What to open in a browser. At every address of the machine, its name stands for them."""
    is_any = ip_address(bound.partition("%")[0]).is_unspecified
    return f"http://{in_url(socket.gethostname() if is_any else host)}:{port}/"
