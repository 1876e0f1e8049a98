"""Read JSON from others: an object that may safely be compared and printed, or one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic_core import from_json

from rollstream.schemas.weights.regular_files import open_regular

MAX_BYTES = 100_000_000
"""The longest header that safetensors allows; an index of tensors is no longer."""
MAX_DEPTH = 16
"""So deep at most, so that repr and == do not reach the interpreter's recursion limit. `from_json` allows 200."""


class JsonRefusedError(ValueError):
    """Raised when a file cannot be read or has no JSON object of a sane depth. The text begins with a verb."""


def read_object(path: Path) -> dict[str, Any]:
    """Read an object from a file, from at most `MAX_BYTES`. Raises `JsonRefusedError`."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES)
    except OSError as error:
        raise JsonRefusedError(f"is not readable ({error.strerror})") from None
    return parse_object(data)


def parse_object(data: bytes) -> dict[str, Any]:
    """Read an object whose strings can be encoded again; half a surrogate pair cannot. Raises `JsonRefusedError`."""
    try:
        value = from_json(data)
    except ValueError as error:  # it names the fault and its place, never the content
        raise JsonRefusedError(f"is not readable ({error})") from None
    if not isinstance(value, dict):
        raise JsonRefusedError("is no JSON object")
    if _too_deep(value):
        raise JsonRefusedError(f"is nested more than {MAX_DEPTH} deep")
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level for item in _items(outer)]
    return bool(level)


def _items(outer: Any) -> list[Any]:
    """The items that may have items themselves."""
    found = outer.values() if isinstance(outer, dict) else outer
    return [item for item in found if isinstance(item, dict | list)]
