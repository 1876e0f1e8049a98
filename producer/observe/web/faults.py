"""Which answer an error is. Pure."""

from __future__ import annotations

from rollstream.schemas import NameRefusedError

from ...errors import (
    ClientClosedError,
    RedisUnavailableError,
    UnknownBatchError,
    UnknownLetterError,
    UnknownWorkerError,
)
from .gate import Problem

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NameRefusedError, 400),
    (UnknownBatchError, 404),
    (UnknownLetterError, 404),
    (UnknownWorkerError, 404),
    (RedisUnavailableError, 503),
    (ClientClosedError, 503),
)


def problem_of(error: Exception) -> Problem:
    """The answer; 409 for an error that says what state forbids."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 409)
    return Problem(status=status, text=str(error))
