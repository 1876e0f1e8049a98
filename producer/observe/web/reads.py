"""What the page reads: who it is for, how the fleet is, one batch, one dead letter."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rollstream.schemas import Keys

from ...redis_io.connection import Connection
from .event_stream import MOST_STREAMS, EventStream
from .fleet_json import to_json
from .live_readings import LiveReadings
from .sessions import Sessions
from .texts import Texts


class Reads:
    """Answers in JSON; it changes nothing."""

    def __init__(
        self,
        *,
        connection: Connection,
        keys: Keys,
        readings: LiveReadings,
        sessions: Sessions,
        cookie: str,
        allow_actions: bool,
        texts: Texts | None,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._readings = readings
        self._sessions = sessions
        self._cookie = cookie
        self._allow_actions = allow_actions
        self._texts = texts
        self._stream = EventStream(readings)

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/events", _Streamed(self._events), methods=["GET"]),
            Route("/api/session", self._session, methods=["GET"]),
            Route("/api/fleet", self._fleet, methods=["GET"]),
        ]

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._readings.watchers >= MOST_STREAMS:
            raise HTTPException(503, f"{MOST_STREAMS} pages look already", {"retry-after": "10"})
        await self._stream(scope, receive, send)

    async def _session(self, request: Request) -> Response:
        session = request.cookies.get(self._cookie, "")
        may_act = self._allow_actions and self._sessions.is_valid(session)
        return answered(
            {
                "policy": self._keys.policy,
                "partitions": self._keys.partitions,
                "redis": self._connection.url,
                "version": _version(),
                "actions": may_act,
                "csrf": self._sessions.csrf(session) if may_act else "",
                "text": self._texts is not None,
            }
        )

    async def _fleet(self, _request: Request) -> Response:
        try:
            event = await self._readings.newest()
        except TimeoutError:
            raise HTTPException(503, "no reading came in time") from None
        return Response(event.data, 200 if event.name == "fleet" else 503, media_type="application/json")


class _Streamed:
    """Starlette takes a class for an application of its own, and a function for one that gives a response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def answered(told: dict[str, Any]) -> Response:
    """The answer in JSON."""
    return Response(to_json(told), media_type="application/json")


def _version() -> str:
    try:
        return metadata.version("rollstream")
    except metadata.PackageNotFoundError:
        return ""
