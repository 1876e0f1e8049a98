"""What each request must be before anything answers it, and the headers that every answer has."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from math import ceil
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rollstream.schemas.printable import printable

from ...http.sockets import host_name
from ...http.tokens import WrongTries
from .sessions import Sessions

log = logging.getLogger("rollstream")

CSRF_HEADER = "x-rollstream-csrf"
METHODS = ("GET", "HEAD", "POST")
MOST_BODY = 4096
"""Bytes that a request may carry."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_OPEN = ("/login", "/assets/")
_DATA = ("/api/", "/events")
"""Paths that only the page itself asks for; others are opened by people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a request is not answered."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the gate looks at of a request."""

    method: str
    path: str
    address: str = ""
    """Where it came from."""
    host: str = ""
    origin: str = ""
    fetch_site: str = ""
    session: str = ""
    """The cookie's value."""
    bearer: str = ""
    csrf: str = ""
    length: str = ""

    @classmethod
    def of(cls, scope: Scope, cookie: str) -> Asked:
        """What a request says; `cookie` is the name of ours."""
        headers = Headers(scope=scope)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        return cls(
            method=scope["method"],
            path=scope["path"],
            address=(scope.get("client") or ("",))[0],
            host=headers.get("host", ""),
            origin=headers.get("origin", ""),
            fetch_site=headers.get("sec-fetch-site", ""),
            session=cookie_parser(headers.get("cookie", "")).get(cookie, ""),
            bearer=bearer.strip() if kind.lower() == "bearer" else "",
            csrf=headers.get(CSRF_HEADER, ""),
            length=headers.get("content-length", "0"),
        )

    @property
    def is_action(self) -> bool:
        """Whether it would change something."""
        return self.method == "POST" and self.path != "/login"


class Rules:
    """What is asked of requests. `hosts`: the names under which this server may be asked; None for any."""

    def __init__(
        self, *, sessions: Sessions, tries: WrongTries, hosts: Collection[str] | None, allow_actions: bool
    ) -> None:
        self._sessions = sessions
        self._tries = tries
        self._hosts = hosts
        self._allow_actions = allow_actions

    def problem(self, asked: Asked) -> Problem | None:
        """Why the request is refused; None if it may be answered."""
        return self._odd(asked) or self._stranger(asked) or (self._action(asked) if asked.is_action else None)

    def _odd(self, asked: Asked) -> Problem | None:
        if self._hosts is not None and host_name(asked.host) not in self._hosts:
            text = f"this server is not called {printable(asked.host[:80])!r}: open it as http://localhost:PORT/"
            return Problem(status=400, text=text)
        if asked.method not in METHODS:
            return Problem(status=405, text="only GET, HEAD and POST", headers=(("allow", ", ".join(METHODS)),))
        if asked.path.startswith(_DATA) and asked.fetch_site not in {"", "same-origin", "none"}:
            return Problem(status=403, text="another site may not ask this")
        if not (asked.length.isascii() and asked.length.isdigit() and len(asked.length) < 10):
            return Problem(status=400, text="content-length is no number")
        if int(asked.length) > MOST_BODY:
            return Problem(status=413, text=f"a request has at most {MOST_BODY} bytes")
        return None

    def _stranger(self, asked: Asked) -> Problem | None:
        if not self._sessions.are_asked_for or asked.path.startswith(_OPEN):
            return None
        if asked.bearer:
            return self._wrong_token(asked)
        if asked.session and self._sessions.is_valid(asked.session):
            return None
        if asked.path.startswith(_DATA) or asked.method == "POST":
            return Problem(status=401, text="log in at /login, or send the token as Authorization: Bearer")
        return Problem(status=303, text="log in", headers=(("location", f"/login?next={quote(asked.path)}"),))

    def _wrong_token(self, asked: Asked) -> Problem | None:
        if problem := self.must_wait(asked.address):
            return problem
        if self._sessions.is_token(asked.bearer):
            return None
        self.count_wrong(asked.address)
        return Problem(status=401, text="this is not the token")

    def count_wrong(self, address: str) -> None:
        """Note a wrong token."""
        log.warning("page: %s gave a wrong token", address)
        self._tries.count(address)

    def must_wait(self, address: str) -> Problem | None:
        """Whether this address has tried wrong tokens too often to try another now."""
        if not (seconds := self._tries.wait_s(address)):
            return None
        text = f"too many wrong tokens from this address: try again in {ceil(seconds)} s"
        return Problem(status=429, text=text, headers=(("retry-after", str(ceil(seconds))),))

    def _action(self, asked: Asked) -> Problem | None:
        if not self._allow_actions or not self._sessions.are_asked_for:
            return Problem(status=403, text="this page only shows: actions need --allow-actions and a token")
        if (asked.origin or not asked.bearer) and not _is_same_site(asked):
            return Problem(status=403, text="actions are only taken from this server's own page")
        if not asked.bearer and not self._sessions.is_csrf(asked.csrf, asked.session):
            return Problem(status=403, text=f"{CSRF_HEADER} is not that of this session: load the page again")
        return None


def _is_same_site(asked: Asked) -> bool:
    """By what the browser says of where the request comes from; a browser says nothing of it only in a GET."""
    if asked.fetch_site:
        return asked.fetch_site == "same-origin"
    return bool(asked.origin) and bool(asked.host) and urlsplit(asked.origin).netloc.lower() == asked.host.lower()


def problem_response(problem: Problem) -> Response:
    """The answer to a request that is refused."""
    headers = {"cache-control": "no-store", **dict(problem.headers)}
    if problem.status == 303:
        return RedirectResponse(headers.pop("location"), 303, headers)
    return JSONResponse({"error": problem.text}, problem.status, headers)


class Gate:
    """In front of the whole application."""

    def __init__(self, app: ASGIApp, *, rules: Rules, cookie: str) -> None:
        self._app = app
        self._rules = rules
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        problem = self._rules.problem(Asked.of(scope, self._cookie))
        app = self._app if problem is None else problem_response(problem)
        await app(scope, receive, with_headers)
