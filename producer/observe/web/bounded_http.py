"""uvicorn's HTTP, with an end for connections that ask nothing and a bound on how many there are."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
_SILENT_S = 10.0
"""A connection has so long for its first request, headers and all."""


class BoundedHttp(H11Protocol):
    """One connection."""

    _first: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Called by the event loop."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._first = self.loop.call_later(_SILENT_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._first is not None:
            self._first.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        cycle: Any = self.cycle
        if cycle is None:
            self.transport.abort()
