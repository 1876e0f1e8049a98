"""uvicorn in our own process: its signals, its exit code, its end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import uvicorn
from starlette.types import ASGIApp

from .bounded_http import BoundedHttp

EXIT_ENDED, EXIT_INTERRUPTED = 0, 130


class Server(uvicorn.Server):
    """uvicorn, which waits for the end of each answer when it is told to end: streams of events are ended first."""

    def __init__(
        self,
        *,
        app: ASGIApp,
        started: Callable[[Server], None],
        close: Callable[[], None],
        http: type[BoundedHttp] = BoundedHttp,
        grace_s: int = 1,
    ) -> None:
        """`started` gets the server once it listens, `close` is called once it is told to end, `grace_s` seconds before
        the answers that are still under way are cut off.
        """
        super().__init__(
            uvicorn.Config(
                app,
                http=http,
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=20,
                timeout_graceful_shutdown=grace_s,
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

    async def run_beside(self, listening: socket.socket, *works: Coroutine[Any, Any, NoReturn]) -> None:
        """Serve at a socket while these go on, which are cancelled at the end. If one fails by a defect, the server
        ends, and this raises what it raised.
        """
        tasks = [asyncio.ensure_future(work) for work in works]
        for task in tasks:
            task.add_done_callback(self._end_early)
        try:
            await self.serve(sockets=[listening])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    def _end_early(self, _work: asyncio.Future[NoReturn]) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn once signals are handled."""
        await super().startup(sockets)
        self._started(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn once it is told to end."""
        self._close()
        await super().shutdown(sockets)
