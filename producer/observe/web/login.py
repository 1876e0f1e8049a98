"""Where a person gives the token, once, and gets a session."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from .assets import LOGIN, Asset
from .bodies import form_field
from .gate import Rules
from .sessions import SESSION_S, Sessions

_MARK = b"<!--problem-->"
_WRONG = b'<p class="problem" role="alert">This is not the token.</p>'
_LATER = b'<p class="problem" role="alert">Too many wrong tokens from your address. Try again in a minute.</p>'
_NEXT = re.compile(r"/((batches|letters)/[A-Za-z0-9._/-]*)?")
"""Pages of ours: a login leads nowhere else."""


class Login:
    """The form, and what it is answered with."""

    def __init__(self, *, assets: Mapping[str, Asset], sessions: Sessions, rules: Rules, cookie: str) -> None:
        self._form = assets[LOGIN].data
        self._sessions = sessions
        self._rules = rules
        self._cookie = cookie

    def routes(self) -> list[Route]:
        """Where it is."""
        return [Route("/login", self._ask, methods=["GET"]), Route("/login", self._answer, methods=["POST"])]

    async def _ask(self, request: Request) -> Response:
        return self._page(200) if self._sessions.are_asked_for else RedirectResponse(_next(request), 303)

    async def _answer(self, request: Request) -> Response:
        if not self._sessions.are_asked_for:
            return RedirectResponse("/", 303)
        address = request.client.host if request.client else ""
        given = (await form_field(request, "token")).strip()
        # Nothing is awaited from here on: bodies that were held back and come at once would pass before any is counted.
        if problem := self._rules.must_wait(address):
            return self._page(problem.status, _LATER, dict(problem.headers))
        if not self._sessions.is_token(given):
            self._rules.count_wrong(address)
            return self._page(401, _WRONG)
        response = RedirectResponse(_next(request), 303)
        response.set_cookie(
            self._cookie, self._sessions.begin(), max_age=int(SESSION_S), httponly=True, samesite="strict"
        )
        return response

    def _page(self, status: int, problem: bytes = b"", headers: dict[str, str] | None = None) -> Response:
        return Response(self._form.replace(_MARK, problem), status, headers, "text/html; charset=utf-8")


def _next(request: Request) -> str:
    wanted = request.query_params.get("next", "/")
    return wanted if _NEXT.fullmatch(wanted) else "/"
