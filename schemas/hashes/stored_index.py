"""The index of the weight store in Redis: a hash with a field for each item, and one for the sum of their bytes."""

from __future__ import annotations

TOTAL_FIELD = "bytes"
"""Bytes of all items. No item has this name."""


def index_entry(value: bytes) -> tuple[int, float] | None:
    """Bytes of an item and the Unix seconds of its last write; None for a value that no store writes."""
    size, colon, seconds = value[:40].partition(b":")
    if not colon or not size.isdigit() or not seconds.isdigit():
        return None
    return int(size), float(seconds)
