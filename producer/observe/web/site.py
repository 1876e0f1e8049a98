"""The application: which path is answered by what."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from rollstream.schemas import Keys, RollstreamError
from rollstream.schemas.printable import printable

from ...http.tokens import WrongTries
from ...redis_io.connection import Connection
from .actions import Actions
from .assets import read_assets
from .faults import problem_of
from .gate import Gate, Problem, Rules, problem_response
from .live_readings import LiveReadings
from .login import Login
from .pages import Pages
from .reads import Reads
from .sessions import Sessions
from .texts import Texts

log = logging.getLogger("rollstream")


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the application is made of."""

    connection: Connection
    keys: Keys
    readings: LiveReadings
    token: str | None
    hosts: frozenset[str] | None
    """Names under which it may be asked; None for any."""
    allow_actions: bool
    cookie: str
    """The name of the session's cookie; servers on one host need different ones, for cookies know no ports."""
    texts: Texts | None = None


def make_app(site: Site) -> ASGIApp:
    """The whole application, behind its gate."""
    sessions = Sessions(token=site.token)
    rules = Rules(sessions=sessions, tries=WrongTries(), hosts=site.hosts, allow_actions=site.allow_actions)
    assets = read_assets()
    reads = Reads(
        connection=site.connection,
        keys=site.keys,
        readings=site.readings,
        sessions=sessions,
        cookie=site.cookie,
        allow_actions=site.allow_actions,
        texts=site.texts,
    )
    login = Login(assets=assets, sessions=sessions, rules=rules, cookie=site.cookie)
    actions = Actions(connection=site.connection, keys=site.keys)
    routes = [*Pages(assets).routes(), *login.routes(), *reads.routes(), *actions.routes()]
    app = Starlette(routes=routes, exception_handlers=_HANDLERS)
    app.router.redirect_slashes = False  # it would build a URL of the Host header
    return Gate(app, rules=rules, cookie=site.cookie)


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette calls it with nothing else
    text = "there is nothing here" if error.status_code == 404 and error.detail == "Not Found" else error.detail
    headers = tuple((error.headers or {}).items())
    return problem_response(Problem(status=error.status_code, text=printable(text), headers=headers))


async def _ours(_request: Request, error: Exception) -> Response:
    return problem_response(problem_of(error))


async def _late(_request: Request, _error: Exception) -> Response:
    return problem_response(Problem(status=504, text="Redis did not answer in time"))


async def _defect(request: Request, error: Exception) -> Response:
    log.error("a defect, at %s %s", request.method, printable(request.url.path), exc_info=error)
    return problem_response(Problem(status=500, text="a defect in this server: its log has the traceback"))


_HANDLERS: Mapping[Any, Any] = {
    HTTPException: _http,
    RollstreamError: _ours,
    TimeoutError: _late,
    Exception: _defect,
}
