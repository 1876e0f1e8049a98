"""What is known of an adapter on the worker's disk."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True, eq=False, kw_only=True)
class Kept:
    """One adapter on disk. Times are monotonic seconds.

    `AdapterStore` alone changes it: `folder` is set when it is written; a renewal sets `renew_at`; `users` is filled
    when the name gets other content, and shrinks as they leave.
    """

    name: str
    sha256: str
    num_bytes: int
    chunks: int
    """How many lie in Redis, to be renewed; 0 for an adapter from the weight store."""
    folder: Path = Path()
    renew_at: float = -math.inf
    users: set[object] = field(default_factory=set)
    """Users from before the name got other content; only for a replaced adapter."""
