"""Skewed lengths for load tests: most completions of the stub end early, and a tenth runs eight times as long."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ONE_IN, _TIMES = 10, 8


def runs_long(prompt: Sequence[int], seed: int | None) -> bool:
    """Whether a prompt is one of the tenth, or, with the seed of one of its samples, that sample is."""
    text = f"{list(prompt)}" if seed is None else f"{list(prompt)}|{seed}"
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"stub-tail").digest()
    return int.from_bytes(digest, "little") % _ONE_IN == 0


def short_of(max_new_tokens: int) -> int:
    """How many tokens a completion has that does not run long."""
    return max(1, max_new_tokens // _TIMES)


def end_early(tokens: NDArray[np.int32], stop_ids: Sequence[int], min_new_tokens: int) -> NDArray[np.int32]:
    """The first eighth of all `tokens` that might come, ended by a stop id; all of them where nothing may end it."""
    if not stop_ids:
        return tokens
    short = tokens[: max(short_of(len(tokens)), min_new_tokens + 1)].copy()
    short[-1] = stop_ids[0]
    return short
