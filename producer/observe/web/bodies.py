"""What a request carries, read within bounds."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from .gate import MOST_BODY

_PATIENCE_S = 10.0
"""Seconds that a request's few bytes may take."""


async def json_object(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises `HTTPException`: no other kind of body can come from a form elsewhere."""
    if _kind(request) != "application/json":
        raise HTTPException(415, "send JSON, as content-type application/json")
    try:
        told = json.loads((await _body(request)).decode("utf-8"))
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON") from None
    if not isinstance(told, dict):
        raise HTTPException(400, "the body is no JSON object")
    return told


async def form_field(request: Request, name: str) -> str:
    """A field of a form; empty if it is not there. Raises `HTTPException`."""
    if _kind(request) != "application/x-www-form-urlencoded":
        raise HTTPException(415, "send a form")
    told = parse_qs((await _body(request)).decode("utf-8", "replace"), max_num_fields=None, keep_blank_values=True)
    return told.get(name, [""])[0]


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _body(request: Request) -> bytes:
    data = b""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            async for piece in request.stream():
                data += piece
                if len(data) > MOST_BODY:
                    raise HTTPException(413, f"a request has at most {MOST_BODY} bytes")
    except TimeoutError:
        raise HTTPException(408, "the body did not come in time", {"connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body did not come") from None
    return data
