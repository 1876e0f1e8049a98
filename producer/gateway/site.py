"""The application: which path is answered by what."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rollstream.schemas import RollstreamError
from rollstream.schemas.printable import printable

from ..batches.handle import BatchHandle
from ..http.bodies import json_object, kind_of, read_body
from ..http.gone import until_gone
from ..redis_io.connection import Connection
from .errors import ApiError
from .faults import DEFECT
from .gate import OPEN, Bounds, Gate, Rules, answer_of
from .orders import Order, Orders, logged_problem
from .parts_feed import PartsFeed
from .requests.asked import Asked, Terms
from .streaming import EventResponse, Events, Form, results_of

_BODY_S = 30.0
"""So long the bytes of a request may take."""
_HEALTH_S = 2.0
_CODES = {404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "request_too_large", 415: "invalid_type"}

log = logging.getLogger("rollstream")
A = TypeVar("A", bound=Asked)


class WholeForm(Form, Protocol):
    """The shape of the answers to one request, streamed or not."""

    async def whole(self, results: Any) -> dict[str, Any]:
        """The answer in one."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of request: how it is read, queued and answered."""

    read: Callable[[Mapping[str, Any], Mapping[str, str], Terms], Any]
    submit: Callable[[Any], Any]
    form: Callable[[Any, BatchHandle], Awaitable[WholeForm]]


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the application is made of."""

    terms: Terms
    rules: Rules
    bounds: Bounds
    orders: Orders
    feed: PartsFeed
    connection: Connection
    completions: Kind
    chat: Kind


class Answering:
    """Takes requests of one kind."""

    def __init__(self, *, site: Site, kind: Kind) -> None:
        self._site = site
        self._kind = kind

    async def __call__(self, request: Request) -> Response | EventResponse:
        """The answer, whole or as a stream."""
        told = await _told(request, self._site.bounds.most_body)
        asked: Asked = self._kind.read(told, request.headers, self._site.terms)
        order = self._site.orders.order(lambda: self._kind.submit(asked), again=asked.caller.request_id is not None)
        is_told = False
        try:
            answer = await (self._whole(asked, order, request) if asked.stream is None else self._stream(asked, order))
            is_told = True
        except ApiError:  # the order has given up what is still to be sampled
            is_told = True
            raise
        finally:
            if not is_told:
                order.give_up()
        return answer

    async def _whole(self, asked: Asked, order: Order, request: Request) -> Response:
        gone = asyncio.ensure_future(until_gone(request.receive))
        try:
            found = await order.first(self._answer(asked, order), gone)
        finally:
            gone.cancel()
        if found is None:
            order.give_up()
            return Response(status_code=499)
        return JSONResponse(found)

    async def _answer(self, asked: Asked, order: Order) -> dict[str, Any]:
        handle = await order.handle()
        answers = await handle.wait()
        form = await self._kind.form(asked, handle)
        return await form.whole(results_of(answers, asked.words))

    async def _stream(self, asked: Asked, order: Order) -> EventResponse:
        handle = await order.handle()
        form = await self._kind.form(asked, handle)
        usage = asked.stream is not None and asked.stream.usage
        feed, words = self._site.feed, asked.words
        events = Events(feed=feed, order=order, handle=handle, form=form, usage=usage, words=words)
        return EventResponse(events=events.chunks(), order=order)


class Facts:
    """What is asked beside completions."""

    def __init__(self, *, site: Site) -> None:
        self._site = site
        self._since = int(time.time())

    async def health(self, _request: Request) -> Response:
        """Whether Redis answers."""
        try:
            async with asyncio.timeout(_HEALTH_S):
                await self._site.connection.call("ask whether Redis answers", _ping, told=True)
        except (RollstreamError, TimeoutError):
            return JSONResponse({"status": "Redis does not answer"}, 503)
        return JSONResponse({"status": "ok"})

    async def models(self, _request: Request) -> Response:
        """The one policy; its adapters are not listed."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """The policy by its name."""
        if (name := request.path_params["name"]) != self._site.terms.policy:
            text = f"model {printable(name[:80])!r} does not exist: this gateway serves {self._site.terms.policy!r}"
            raise ApiError(404, text, "model", "model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        return {"id": self._site.terms.policy, "object": "model", "created": self._since, "owned_by": "rollstream"}


def make_app(site: Site) -> ASGIApp:
    """The whole application, behind its gate."""
    facts = Facts(site=site)
    routes = [
        Route("/v1/completions", Answering(site=site, kind=site.completions).__call__, methods=["POST"]),
        Route("/v1/chat/completions", Answering(site=site, kind=site.chat).__call__, methods=["POST"]),
        Route("/v1/models", facts.models, methods=["GET"]),
        Route("/v1/models/{name:path}", facts.model, methods=["GET"]),
        Route(OPEN, facts.health, methods=["GET"]),
    ]
    app = Starlette(routes=routes, exception_handlers=_HANDLERS)
    app.router.redirect_slashes = False  # it would build a URL of the Host header
    return Gate(app, rules=site.rules)


async def _told(request: Request, most_body: int) -> dict[str, Any]:
    if kind_of(request) != "application/json":
        raise ApiError(415, "send JSON, as content-type application/json", None, "invalid_type")
    if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        text = f"content-encoding {printable(coding[:40])!r} is not taken: send the body as it is"
        raise ApiError(415, text, None, "invalid_header")
    data = await read_body(request, most_bytes=most_body, within_s=_BODY_S)
    told = json_object(data)
    if b"\\u" in data:
        _check_characters(told)
    return told


def _check_characters(told: Mapping[str, Any]) -> None:
    """Halves of surrogate pairs are no characters, and no tokenizer takes them. A backslash before `ud83d` is one."""
    try:
        json.dumps(told, ensure_ascii=False).encode()
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except UnicodeEncodeError:
        raise ApiError(400, "the body has halves of characters (\\ud800 to \\udfff)", None, "invalid_value") from None


async def _ping(redis: Redis) -> Any:
    return await redis.ping()


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette calls it with nothing else
    text = error.detail
    if error.status_code == 404:
        text = "there is nothing here: POST /v1/chat/completions or /v1/completions, GET /v1/models or /health"
    told = ApiError(error.status_code, text, None, _CODES.get(error.status_code))
    return answer_of(told)


async def _ours(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RollstreamError)  # noqa: S101 - see above
    return answer_of(logged_problem(error))


async def _defect(request: Request, error: Exception) -> Response:
    log.error("a defect, at %s %s", request.method, printable(request.url.path), exc_info=error)
    answer = answer_of(ApiError(500, DEFECT))
    answer.headers["connection"] = "close"  # the server closes it after an error that nobody caught
    return answer


_HANDLERS: Mapping[Any, Any] = {HTTPException: _http, RollstreamError: _ours, Exception: _defect}
