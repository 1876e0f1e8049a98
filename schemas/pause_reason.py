"""Why a worker takes no jobs, as its report says it and as everybody reads it."""

from __future__ import annotations

from enum import StrEnum

PAUSED_FIELD = "paused"
"""Of the control hash: when an operator paused the queue, in Unix seconds; no such field while it is not paused."""


class PauseReason(StrEnum):
    """A worker may have several at once; it takes jobs again when the last is over."""

    OPERATOR = "operator"
    """`rollstream pause`, for the whole queue."""
    POLICY = "policy"
    """What it serves is none of the versions that are announced, and none of those could be loaded yet."""
    MEMORY = "memory"
    """Redis is nearly full."""
    ADAPTER_CACHE = "adapter cache"
    """An adapter could not be kept on its disk."""
