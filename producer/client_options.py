"""With what a client is made, as both clients spell it."""

from __future__ import annotations

from pathlib import Path
from typing import Required

from .redis_io.access_options import AccessOptions
from .weights.store_options import StoreOptions


class QueueOptions(AccessOptions, total=False):
    """What a client is made with, beside the URL; see `AsyncClient`."""

    policy: Required[str]
    partitions: int
    reconnect_s: float
    weights: str | Path | StoreOptions | None
    remember_lengths: int
