"""What the page reads: who it is for, how the fleet is, one batch, one dead letter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rollstream.schemas import Keys
from rollstream.version import __version__

from ...redis_io.connection import Connection
from ..batch_seen import GroupSeen
from ..parts.results_index import ResultsIndex
from ..read_batch import read_batch, read_group
from ..read_letter import read_letter
from .event_stream import MOST_STREAMS, EventStream
from .fleet_json import plain, to_json
from .live_readings import LiveReadings
from .sessions import Sessions
from .texts import Texts

_AT_ONCE = 2
_PATIENCE_S = 60.0
_MOST_DIGITS = 10


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
        self._index = ResultsIndex()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._stream = EventStream(readings)

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/events", _Streamed(self._events), methods=["GET"]),
            Route("/api/session", self._session, methods=["GET"]),
            Route("/api/fleet", self._fleet, methods=["GET"]),
            Route("/api/batches/{batch_id}", self._batch, methods=["GET"]),
            Route("/api/batches/{batch_id}/groups/{group}", self._group, methods=["GET"]),
            Route("/api/letters/{partition}/{letter_id}", self._letter, methods=["GET"]),
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
                "version": __version__,
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

    async def _batch(self, request: Request) -> Response:
        first, count = _number(request.query_params, "first", 0), _number(request.query_params, "count", 100)
        batch_id = request.path_params["batch_id"]
        async with self._turn():
            seen = await read_batch(self._connection, self._keys, batch_id, first=first, count=count, index=self._index)
        return answered(plain(seen))

    async def _group(self, request: Request) -> Response:
        batch_id, group = request.path_params["batch_id"], _number(request.path_params, "group", 0)
        async with self._turn():
            try:
                seen = await read_group(self._connection, self._keys, batch_id, group, index=self._index)
            except IndexError as error:
                raise HTTPException(404, str(error)) from None
            told = plain(seen)
            if self._texts is not None:
                await self._add_texts(self._texts, seen, told)
        return answered(told)

    @staticmethod
    async def _add_texts(texts: Texts, seen: GroupSeen, told: dict[str, Any]) -> None:
        told["prompt_text"] = None if seen.prompt_token_ids is None else await texts.of(seen.prompt_token_ids)
        for completion, row in zip(seen.completions, told["completions"], strict=True):
            if completion.token_ids is not None:
                row["text"] = await texts.of(completion.token_ids)

    async def _letter(self, request: Request) -> Response:
        partition, letter_id = _number(request.path_params, "partition", 0), request.path_params["letter_id"]
        async with self._turn():
            return answered(plain(await read_letter(self._connection, self._keys, partition, letter_id)))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A batch may have gigabytes of answers: however many ask, so many are read at once."""
        async with asyncio.timeout(_PATIENCE_S), self._turns:
            yield


class _Streamed:
    """Starlette takes a class for an application of its own, and a function for one that gives a response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _number(told: Mapping[str, Any], name: str, default: int) -> int:
    """A number of a URL. Raises `HTTPException`."""
    text = told.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS):
        raise HTTPException(400, f"{name} is no number from 0 on")
    return int(text)


def answered(told: dict[str, Any]) -> Response:
    """The answer in JSON."""
    return Response(to_json(told), media_type="application/json")
