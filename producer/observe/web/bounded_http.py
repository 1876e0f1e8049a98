"""uvicorn's HTTP, with an end for connections that ask nothing and a bound on how many there are."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
_SILENT_S = 10.0
"""A connection has so long for a request, headers and all; after an answer, so long beyond uvicorn's own limit, which
ends with the first byte that comes."""


class BoundedHttp(H11Protocol):
    """One connection."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Called by the event loop."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._expect_request(_SILENT_S)

    def on_response_complete(self) -> None:
        """Called by uvicorn."""
        self._expect_request(self.timeout_keep_alive + _SILENT_S)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._limit is not None:
            self._limit.cancel()
        super().connection_lost(exc)

    def _expect_request(self, within_s: float) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self.loop.call_later(within_s, self._give_up)

    def _give_up(self) -> None:
        cycle: Any = self.cycle  # None before the first request, though uvicorn's types deny it
        if cycle is None or cycle.response_complete:
            self.transport.abort()
