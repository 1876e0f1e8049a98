"""A config's values as Python's own types: trainers have numbers in numpy, and EOS ids in tensors or sets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any

SCALARS = frozenset({bool, int, float, str, bytes, type(None)})
_DEEPEST, _LONGEST = 3, 2**13
"""Deeper or longer values stay as they are, and the field's own check refuses them."""


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as a Python scalar or a list of scalars, if it clearly is one; else unchanged.

    Without this pydantic takes anything with `__float__` as a number, even `numpy.True_` and a tensor of one bool.
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
    """An array of numpy or torch: a scalar if it has no dimension, a list if it has one."""
    try:
        return value.tolist() if value.ndim == 0 or (value.ndim == 1 and _is_short(value)) else value
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # on the meta device, or without data
        return value


def _of_collection(value: Collection[Any], depth: int) -> Any:
    if isinstance(value, Mapping):
        return {plain(key, depth): plain(one, depth) for key, one in value.items()}
    items = [plain(one, depth) for one in value]
    ordered = isinstance(value, Set) and set(map(type, items)) in ({int}, {str})
    return sorted(items) if ordered else items
