"""A config's values as Python's own types: a trainer counts steps in numpy and keeps its EOS ids in tensors or sets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any

SCALARS = frozenset({bool, int, float, str, bytes, type(None)})
_DEEPEST, _LONGEST = 3, 2**13
"""What is deeper or longer stays as it is, and is refused by the field's own check."""


def plain(value: Any, depth: int = 0) -> Any:
    """`value` where its type is Python's own, else what it says beyond doubt: a scalar, or a list of them.

    Without this pydantic takes whatever has `__float__` for a number, `numpy.True_` and a tensor of one bool included.
    """
    kind = type(value)
    if kind in SCALARS or depth > _DEEPEST:
        return value
    if kind in (list, tuple) and set(map(type, value)) <= SCALARS:
        return value
    if hasattr(value, "ndim") and hasattr(value, "tolist"):
        return _of_array(value)
    if isinstance(value, Collection) and not isinstance(value, str | bytes) and _is_short(value):
        return _of_collection(value, depth + 1)
    return value


def _is_short(value: Collection[Any]) -> bool:
    try:
        return len(value) <= _LONGEST
    except OverflowError:  # a range may be longer than any list
        return False


def _of_array(value: Any) -> Any:
    """numpy's and torch's alike: of no dimension a scalar, of one a list."""
    try:
        return value.tolist() if value.ndim == 0 or (value.ndim == 1 and _is_short(value)) else value
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # of the meta device, of no data
        return value


def _of_collection(value: Collection[Any], depth: int) -> Any:
    if isinstance(value, Mapping):
        return {plain(key, depth): plain(one, depth) for key, one in value.items()}
    items = [plain(one, depth) for one in value]
    ordered = isinstance(value, Set) and set(map(type, items)) in ({int}, {str})
    return sorted(items) if ordered else items
