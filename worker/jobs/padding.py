"""Pads completions to tensors; masks follow from lengths, never from ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import Tensor

from ..engine import Completion


def pad(rows: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """An array of `(len(rows), longest row)`: each row on the left, zeros after it."""
    if len(rows) == 1:
        return rows[0][np.newaxis].astype(dtype, copy=False)
    width = max((len(row) for row in rows), default=0)
    padded = np.zeros((len(rows), width), dtype)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded:
    """The tensors of a `GroupResult`: int32 ids, bit mask and float32 log-probs (n, L), int32 lengths (n,)."""

    token_ids: Tensor
    lengths: Tensor
    response_mask: Tensor
    logprobs: Tensor | None
    scores: Tensor | None


def pad_completions(completions: Sequence[Completion]) -> Padded:
    """Pad n completions to the longest, L.

    `logprobs` is None unless every completion has them, `scores` None unless every completion has one.
    """
    lengths = np.array([len(c.token_ids) for c in completions], np.int32)
    token_ids = pad([c.token_ids for c in completions], np.int32)
    logprobs = [c.logprobs for c in completions if c.logprobs is not None]
    scores = [c.score for c in completions if c.score is not None]
    complete = len(completions)
    return Padded(
        token_ids=Tensor.of(token_ids),
        lengths=Tensor.of(lengths),
        response_mask=Tensor.of(np.arange(token_ids.shape[1]) < lengths[:, None]),
        logprobs=Tensor.of(pad(logprobs, np.float32)) if len(logprobs) == complete else None,
        scores=Tensor.of(np.array(scores, np.float32)) if len(scores) == complete else None,
    )
