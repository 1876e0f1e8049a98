"""What a request carries, read within bounds."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ...http import bodies
from ...http.bodies import kind_of
from .gate import MOST_BODY

_PATIENCE_S = 10.0
"""Seconds that a request's few bytes may take."""


async def json_object(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises `HTTPException`: no other kind of body can come from a form elsewhere."""
    if kind_of(request) != "application/json":
        raise HTTPException(415, "send JSON, as content-type application/json")
    return bodies.json_object(await _body(request))


async def form_field(request: Request, name: str) -> str:
    """A field of a form; empty if it is not there. Raises `HTTPException`."""
    if kind_of(request) != "application/x-www-form-urlencoded":
        raise HTTPException(415, "send a form")
    told = parse_qs((await _body(request)).decode("utf-8", "replace"), max_num_fields=None, keep_blank_values=True)
    return told.get(name, [""])[0]


async def _body(request: Request) -> bytes:
    return await bodies.read_body(request, most_bytes=MOST_BODY, within_s=_PATIENCE_S)
