"""Fields of hashes that anybody may have written: a reader gets a value that makes sense, or None, and no error."""

from __future__ import annotations

import math

from .errors import MAX_TEXT, cut
from .printable import printable

_LATEST_S = 1e11
"""Unix seconds beyond which nothing is a time, nor are infinity and NaN."""
_COUNT_DIGITS = 18
"""What fits 64 bits with a sign, as Redis counts."""


def text_of(value: bytes) -> str:
    """Printable, at most as long as an error may be; what is no UTF-8 becomes escapes."""
    return cut(printable(value[: 4 * MAX_TEXT].decode("utf-8", "backslashreplace")))


def count_of(value: bytes) -> int | None:
    """A number from 0 on."""
    return int(value) if value.isdigit() and len(value) <= _COUNT_DIGITS else None


def seconds_of(value: bytes) -> float | None:
    """Seconds from 0 on, Unix time or a duration."""
    try:
        seconds = float(value[:40])
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds < _LATEST_S else None


def yes_or_no(value: bytes) -> bool | None:
    """`1` or `0`."""
    return {b"1": True, b"0": False}.get(value)
