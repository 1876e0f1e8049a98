"""Where a trainer's tensors go, and how often all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollstream.schemas.weights.compression import Compression, compression_problem
from rollstream.schemas.wire.weights import MAX_CHAIN

from ..errors import ArgumentError

ANCHOR_EVERY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """For `AsyncClient(..., weights=StoreOptions(place=...))`; a place alone is `weights="DIR"`."""

    place: str | Path = field(repr=False)
    """A folder that trainer and workers share, "redis" for the policy's own Redis, or a URL that fsspec knows. It may
    hold keys, and is not shown."""
    anchor_every: int = ANCHOR_EVERY
    """At least every so many versions all weights are sent, so that a worker that starts reads few deltas."""
    compression: Compression = "none"
    """"zstd" needs `pip install 'rollstream[weights]'` at trainer and workers."""
    quota_bytes: int | None = None
    """For "redis": most bytes that the store holds there; None: 8 GiB."""
    keep: int = 3
    """At least so many of the newest versions stay, besides those that live workers serve."""
    grace_s: float = 600.0
    """Nothing is removed that was written within so many seconds, since a slow worker may still read it; once a
    store in Redis is full, within a minute."""

    @classmethod
    def of(cls, given: Any) -> StoreOptions:
        """The options, checked. Raises `ArgumentError`."""
        options = cls(place=given) if isinstance(given, str | Path) else given
        if not isinstance(options, StoreOptions):
            raise ArgumentError("weights", given, 'give a folder, "redis", a URL, or StoreOptions(place=...)')
        for name, low, high in (("anchor_every", 1, MAX_CHAIN), ("keep", 1, 1000), ("quota_bytes", 1, 2**50)):
            value = getattr(options, name)
            if not (type(value) is int and low <= value <= high) and not (name == "quota_bytes" and value is None):
                raise ArgumentError(name, value, f"give an integer from {low} to {high}")
        if not isinstance(options.grace_s, int | float) or not 0 <= options.grace_s <= 1e7:
            raise ArgumentError("grace_s", options.grace_s, "give seconds from 0 on")
        if problem := compression_problem(str(options.compression)):
            raise ArgumentError("compression", options.compression, problem)
        return options
