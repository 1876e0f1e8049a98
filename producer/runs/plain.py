"""A trainer's own small values, such as its cursor, as bytes and back. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgpack

from rollstream.schemas.plain_values import plain
from rollstream.schemas.wire.sizes.limits import LimitExceeded, check

_RULE = "give None, booleans, numbers, texts, bytes, and lists and dicts of them"


class NotPlainError(ValueError):
    """Raised for a value that cannot be kept, or bytes that nobody has kept."""


def packed(value: object, most: int) -> bytes:
    """`value` as msgpack, if it comes back as it is: None, booleans, numbers, texts, bytes, lists and dicts of them.

    Tuples and arrays come back as lists. Raises `NotPlainError`.
    """
    try:
        data: bytes = msgpack.packb(value, use_bin_type=True, default=_scalar)
        check(data)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotPlainError(f"{error}: {_RULE}") from None
    try:
        unpacked(data)  # what cannot be read would make the run impossible to open
    except NotPlainError:
        raise NotPlainError(f"a key of a dict comes back as a list, which is no key: {_RULE}") from None
    if len(data) > most:
        raise NotPlainError(f"{len(data)} bytes, at most {most} are kept: keep it in a file, and name the file here")
    return data


def unpacked(data: bytes) -> Any:
    """The value again. Raises `NotPlainError`."""
    try:
        check(data)
        return msgpack.unpackb(data, strict_map_key=False)
    except (LimitExceeded, ValueError, TypeError) as error:
        raise NotPlainError(f"is no value that a trainer saved: {error}") from None


def _scalar(value: object) -> object:
    """A number or an array of numpy or torch, or a mapping. Raises `TypeError`, also for a set: it would come back as a
    list.
    """
    is_array = hasattr(value, "ndim")
    if isinstance(value, Collection) and not isinstance(value, Mapping) and not is_array:
        raise TypeError(f"some {type(value).__name__}, which would not come back as one")
    found = plain(value)
    if found is value:
        raise TypeError(f"some {type(value).__name__}")
    return found
