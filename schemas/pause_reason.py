"""Why a worker takes no jobs, as its report tells."""

from __future__ import annotations

from enum import StrEnum

PAUSED_FIELD = "paused"
"""Field of the control hash: when an operator paused the queue, in Unix seconds; missing while it is not paused."""


class PauseReason(StrEnum):
    """A worker may have several reasons at once; it takes jobs again when the last one is gone."""

    OPERATOR = "operator"
    """`rollstream pause`, for the whole queue."""
    POLICY = "policy"
    """The worker serves none of the announced versions, and could not load one yet."""
    MEMORY = "memory"
    """Redis is nearly full."""
    ADAPTER_CACHE = "adapter cache"
    """An adapter could not be kept on the worker's disk."""
