"""What each request must be before anything reads it: its name of this server, its token, its size, its turn."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from math import ceil
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rollstream.schemas.printable import printable

from ..http.sockets import host_name
from ..http.tokens import WrongTries, digest_of, is_token
from .errors import ApiError
from .requests.common import ID_HEADERS, SESSION_HEADER, request_id_of

log = logging.getLogger("rollstream")

OPEN = "/health"
_ONCE = ("authorization", "content-length", "content-type", SESSION_HEADER, *ID_HEADERS)
"""Headers of which a second one would be a second meaning."""
_LONGEST_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much may be asked."""

    most_body: int
    """Bytes of one request."""
    most_requests: int
    """Requests that are answered at once."""


class Rules:
    """What is asked of requests. `hosts`: the names under which this server may be asked; None for any."""

    def __init__(self, *, token: str | None, hosts: Collection[str] | None, bounds: Bounds) -> None:
        self._token = None if token is None else digest_of(token)
        self._hosts = hosts
        self._bounds = bounds
        self._tries = WrongTries()

    def problem(self, headers: Headers, *, path: str, address: str, running: int) -> ApiError | None:
        """Why the request is refused; None if it may be answered."""
        return self._odd(headers) or (
            None if path == OPEN else self._stranger(headers, address) or self._too_much(headers, running)
        )

    def _odd(self, headers: Headers) -> ApiError | None:
        if self._hosts is not None and host_name(headers.get("host", "")) not in self._hosts:
            return ApiError(400, f"this server is not called {printable(headers.get('host', '')[:80])!r}")
        named = Counter(name.decode("latin-1") for name, _ in headers.raw)
        if twice := next((name for name in _ONCE if named[name] > 1), None):
            return ApiError(400, f"there are two headers {twice}", None, "invalid_header")
        return None

    def _stranger(self, headers: Headers, address: str) -> ApiError | None:
        if self._token is None:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not given.strip():
            return ApiError(401, "send the token as Authorization: Bearer (api_key)", None, "missing_api_key")
        if is_token(given.strip(), self._token):  # also where others of this address, such as a proxy's, try wrong ones
            return None
        if seconds := self._tries.wait_s(address):
            text = f"too many wrong tokens from this address: try again in {ceil(seconds)} s"
            return ApiError(429, text, None, "too_many_tries", retry_after_s=ceil(seconds))
        log.warning("gateway: %s gave a wrong token", address)
        self._tries.count(address)
        return ApiError(401, "this is not the token", None, "invalid_api_key")

    def _too_much(self, headers: Headers, running: int) -> ApiError | None:
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < _LONGEST_LENGTH):
            return ApiError(400, "content-length is no number", None, "invalid_header")
        if int(length) > self._bounds.most_body:
            text = f"a request has at most {self._bounds.most_body} bytes"
            return ApiError(413, text, None, "request_too_large")
        if running >= self._bounds.most_requests:
            text = f"{running} requests are being answered already: try again soon"
            return ApiError(429, text, None, "overloaded", retry_after_s=1)
        return None


def answer_of(error: ApiError) -> Response:
    """The answer to a request that failed."""
    headers = error.headers()
    if error.status in {408, 413}:
        headers["connection"] = "close"
    if error.status == 409:  # clients of OpenAI's repeat it otherwise
        headers["x-should-retry"] = "false"
    return JSONResponse(error.body(), error.status, headers)


class Gate:
    """In front of the whole application. It counts what is being answered, and gives each request its id."""

    def __init__(self, app: ASGIApp, *, rules: Rules) -> None:
        self._app = app
        self._rules = rules
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        headers = Headers(scope=scope)
        address = (scope.get("client") or ("",))[0]
        problem = self._rules.problem(headers, path=scope["path"], address=address, running=self.running)
        request_id = _echoed(headers)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                told["x-request-id"] = request_id
                told["x-content-type-options"] = "nosniff"
                told["cache-control"] = "no-store"
            await send(message)

        if problem is not None:
            await answer_of(problem)(scope, receive, with_headers)
            return
        self.running += 1
        try:
            await self._app(scope, receive, with_headers)
        finally:
            self.running -= 1


def _echoed(headers: Headers) -> str:
    """The request's id as the answer names it; a new one where the client gave none, or none that is one."""
    try:
        return request_id_of(headers) or uuid4().hex
    except ApiError:
        return uuid4().hex
