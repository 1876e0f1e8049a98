"""Integers between two bounds as an expression of a grammar. Pure."""

from __future__ import annotations

MOST_DIGITS = 15
"""Every reader of JSON has integers of so many digits exactly."""


def integers(low: int | None, high: int | None) -> str:
    """An expression for the integers from `low` to `high` (None: without a bound), of up to `MOST_DIGITS` digits.

    Empty where there is none.
    """
    below, above = -(10**MOST_DIGITS) + 1, 10**MOST_DIGITS - 1
    low, high = below if low is None else max(low, below), above if high is None else min(high, above)
    ways = []
    if low < 0 and low <= min(high, -1):
        ways.append(f'"-" ({_magnitudes(max(1, -high), -low)})')
    if high >= 0 and max(low, 0) <= high:
        ways.append(_magnitudes(max(low, 0), high))
    return " | ".join(ways)


def _magnitudes(low: int, high: int) -> str:
    ways = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        ways.append(_same_length(str(first), str(min(high, 10**length - 1))))
    return " | ".join(ways)


def _same_length(low: str, high: str) -> str:
    """The numbers between two of as many digits."""
    digits = len(low) - 1
    if not digits:
        return _digit(low, high)
    if low[0] == high[0]:
        return f'"{low[0]}" ({_same_length(low[1:], high[1:])})'
    if low[1:] == "0" * digits and high[1:] == "9" * digits:
        return f"{_digit(low[0], high[0])} [0-9]{{{digits}}}"
    ways, first, last = [], int(low[0]), int(high[0])
    if low[1:] != "0" * digits:
        ways.append(f'"{first}" ({_same_length(low[1:], "9" * digits)})')
        first += 1
    if high[1:] != "9" * digits:
        last -= 1
    if first <= last:
        ways.append(f"{_digit(str(first), str(last))} [0-9]{{{digits}}}")
    if last < int(high[0]):
        ways.append(f'"{high[0]}" ({_same_length("0" * digits, high[1:])})')
    return " | ".join(ways)


def _digit(low: str, high: str) -> str:
    return f'"{low}"' if low == high else f"[{low}-{high}]"
