"""uvicorn's HTTP, with an end for connections that ask nothing and a bound on how many there are."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from .tokens import network_of

MOST_CONNECTIONS = 256
"""Beyond them one gives way, see `BoundedHttp._make_room`."""
_SILENT_S = 10.0
"""A connection has so long for a request, headers and all; after an answer, so long beyond uvicorn's own limit, which
ends with the first byte that comes."""


class BoundedHttp(H11Protocol):
    """One connection."""

    most_connections: ClassVar[int] = MOST_CONNECTIONS
    _limit: asyncio.TimerHandle | None = None
    _network = ""
    _since = 0.0
    """When it was made or last answered, in the event loop's time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Called by the event loop."""
        super().connection_made(transport)
        self._network = network_of(self.client[0] if self.client else "")
        self._expect_request(_SILENT_S)
        if len(self.connections) > self.most_connections:
            self._make_room()

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
        self._since = self.loop.time()
        self._limit = self.loop.call_later(within_s, self._give_up)

    def _make_room(self) -> None:
        """Close the connection that has waited longest for a whole request, of the address that has most of them.

        If all are being answered, the oldest of that address gives way to an address that has fewer; else this one.
        """
        others: set[Any] = self.connections - {self}  # uvicorn names the types of all its protocols
        held = Counter(one._network for one in self.connections)  # type: ignore[union-attr]  # see above
        least = min(others, key=lambda one: (not one._is_waiting, -held[one._network], one._since), default=self)
        loser = least if least._is_waiting or held[least._network] > held[self._network] else self
        self.connections.discard(loser)  # the event loop says only later that it is lost
        loser.transport.abort()

    @property
    def _is_waiting(self) -> bool:
        cycle: Any = self.cycle  # see `_give_up`
        return cycle is None or cycle.response_complete or cycle.more_body

    def _give_up(self) -> None:
        cycle: Any = self.cycle  # None before the first request, though uvicorn's types deny it
        if cycle is None or cycle.response_complete:
            self.transport.abort()
