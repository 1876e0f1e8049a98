"""One finding of the doctor: what was checked, how bad it is, what was seen, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"
OLD_S = 600.0
"""A job that has waited longer is worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`remedy` is empty when there is nothing to mend."""

    check: str
    level: str
    """`ok`, `warn` (works, but look at it) or `fail` (jobs are not answered, or may be lost)."""
    seen: str
    remedy: str = ""


def graded(check: str, seen: str, *, fail: bool = False, warn: bool = False, remedy: str) -> Finding:
    """A finding at the level that applies; `remedy` is dropped when all is well."""
    level = FAIL if fail else WARN if warn else OK
    return Finding(check=check, level=level, seen=seen, remedy="" if level == OK else remedy)


def some(names: Iterable[str]) -> str:
    """The first five different names, then dots if there are more."""
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
