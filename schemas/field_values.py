"""Read fields of hashes that anybody may have written: a sane value, or None; never an error."""

from __future__ import annotations

import math

from .errors import MAX_TEXT, cut
from .printable import printable

_LATEST_S = 1e11
"""Unix seconds. A greater number, infinity or NaN is no time."""
_COUNT_DIGITS = 18
"""Digits of a count that fits into 64 bits with a sign, as Redis counts."""


def text_of(value: bytes) -> str:
    """A printable text, no longer than an error's may be; bytes that are no UTF-8 become escapes."""
    return cut(printable(value[: 4 * MAX_TEXT].decode("utf-8", "backslashreplace")))


def count_of(value: bytes) -> int | None:
    """A whole number from 0 on; None if it is none."""
    return int(value) if value.isdigit() and len(value) <= _COUNT_DIGITS else None


def seconds_of(value: bytes) -> float | None:
    """Seconds from 0 on, as Unix time or duration; None if it is none."""
    try:
        seconds = float(value[:40])
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds < _LATEST_S else None


def yes_or_no(value: bytes) -> bool | None:
    """True for `1`, False for `0`, else None."""
    return {b"1": True, b"0": False}.get(value)
