"""JSON of what was read: any dataclass as an object of its fields. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from rollstream.schemas.printable import printable, printable_lines

from ..fleet import Fleet, FleetBatch

_LARGEST = 2**53
"""A browser has no exact integers beyond this one."""
_SINGLE = (str, int, float)
_ALSO = {Fleet: ("tokens_per_s", "backlog_s", "partials_bytes"), FleetBatch: ("is_under_way",)}
"""Properties that are sent with the fields."""


def fleet_json(fleet: Fleet) -> bytes:
    """One reading, on one line of ASCII."""
    told = plain(fleet)
    told["minutes"] = [{"minute": number, **plain(minute)} for number, minute in fleet.minutes]
    return to_json(told)


def to_json(told: Mapping[str, Any]) -> bytes:
    """JSON on one line of ASCII: a half of a surrogate pair travels as its escape. `told` is what `plain` gives."""
    return json.dumps(told, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def plain(value: Any) -> Any:
    """`value` as JSON has it. Texts become printable, numbers that JSON or a browser lacks become None."""
    if value is None or isinstance(value, _SINGLE):  # first, for nearly all of a reading is this
        return _single(value)
    if isinstance(value, Mapping):
        return {printable(str(name)): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if is_dataclass(value):
        kind: Any = type(value)
        return {name: plain(getattr(value, name)) for name in _names(kind)}
    return _single(value.value if isinstance(value, Enum) else value)


def _single(value: Any) -> Any:
    if isinstance(value, str):
        return printable_lines(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _LARGEST else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise TypeError(f"a reading holds no {type(value).__name__}")


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return (*(one.name for one in fields(kind)), *_ALSO.get(kind, ()))
