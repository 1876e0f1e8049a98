"""Ages of what others have dated, who may have written any number."""

from __future__ import annotations

from math import isfinite

_LONGEST_S = 1e11
"""More seconds are no age."""


def age_s(moment: float, now: float) -> float:
    """Seconds since `moment`, to the millisecond; 0 for a moment to come, and for a number that is no time."""
    seconds = now - moment
    return round(seconds, 3) if 0 < seconds < _LONGEST_S else 0.0


def finite(value: float) -> float | None:
    """The number; None for infinity and NaN, which JSON does not have."""
    return value if isfinite(value) else None
