"""What a process answers beside its metrics, such as whether it lives. Imports no library of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is answered at one path."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Ask = Callable[[], Page]
"""Makes the answer of now. Threads that answer call it, several at once."""
