"""The body of a request, read within bounds of size and time."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from rollstream.schemas.errors import shown

_MOST_DIGITS = sys.get_int_max_str_digits()


async def read_body(request: Request, *, most_bytes: int, within_s: float) -> bytes:
    """All of it. Raises `HTTPException`."""
    data = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for piece in request.stream():
                data += piece
                if len(data) > most_bytes:
                    raise HTTPException(413, f"a request has at most {most_bytes} bytes")
    except TimeoutError:
        raise HTTPException(408, "the body did not come in time", {"connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body did not come") from None
    return bytes(data)


def kind_of(request: Request) -> str:
    """Its content type, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in a body. NaN and infinity, which JSON does not have, are refused, and a name that an object has
    twice. Raises `HTTPException`.
    """
    try:
        told = json.loads(data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_once)
    except _TwiceError as error:
        raise HTTPException(400, f"an object of the body has {error} twice") from None
    except RecursionError:
        raise HTTPException(400, "the body is nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError, _NoNumberError):
        raise HTTPException(400, "the body is no JSON") from None
    except ValueError:
        raise HTTPException(400, f"an integer of the body has more than {_MOST_DIGITS} digits") from None
    if not isinstance(told, dict):
        raise HTTPException(400, "the body is no JSON object")
    return told


class _NoNumberError(Exception):
    """Raised for NaN and infinity, which JSON does not have. It never leaves this module."""


class _TwiceError(Exception):
    """Raised for a name that stands twice in one object. It never leaves this module."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, value in pairs:
        if name in told:
            raise _TwiceError(shown(name))
        told[name] = value
    return told


def _no_number(name: str) -> NoReturn:
    raise _NoNumberError(name)
