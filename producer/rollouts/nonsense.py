"""Whether the likeliest ids of an answer can be what they are called: a worker may say anything."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_LOG_PROB = 1e-3
"""A probability is at most 1: what a log-prob may be above 0 by rounding."""


def nonsense(ids: NDArray[np.int32], log_probs: NDArray[np.float32]) -> str | None:
    """What is wrong with the candidates (T, K) of T tokens; None if nothing is.

    Minus infinity is the log-prob of an id that was ruled out, and stands after all others; at least one was not.
    """
    if not log_probs.size:
        return None
    if np.isnan(log_probs).any():
        return "a candidate's log-prob is no number"
    if (most := log_probs.max()) > MOST_LOG_PROB:
        return f"a candidate's log-prob is {most:g}, which is above 0"
    if (log_probs[:, 0] == -np.inf).any():
        return "no candidate of a token has a log-prob above minus infinity"
    if (log_probs[:, 1:] > log_probs[:, :-1]).any():
        return "a token's candidates are not sorted, the likeliest first"
    return "an id stands twice among a token's candidates" if _has_twins(ids, log_probs) else None


def _has_twins(ids: NDArray[np.int32], log_probs: NDArray[np.float32]) -> bool:
    """Which ids stand in for those that were ruled out does not matter."""
    told: NDArray[Any] = np.where(log_probs == -np.inf, -1 - np.arange(ids.shape[1], dtype=np.int32), ids)
    told.sort(axis=1)
    return bool((told[:, 1:] == told[:, :-1]).any())
