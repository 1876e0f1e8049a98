"""Pads completions to tensors; masks follow from lengths, never from ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import Tensor

from ..requests import Completion


def pad(rows: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """An array of `(len(rows), longest row, ...)`: each row on the left, zeros after it."""
    if len(rows) == 1:
        return rows[0][np.newaxis].astype(dtype, copy=False)
    width = max((len(row) for row in rows), default=0)
    padded = np.zeros((len(rows), width, *(rows[0].shape[1:] if rows else ())), dtype)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded:
    """The tensors of a `GroupResult`, which says what each of them is."""

    token_ids: Tensor
    lengths: Tensor
    response_mask: Tensor
    logprobs: Tensor | None
    scores: Tensor | None
    forced_mask: Tensor | None
    top_token_ids: Tensor | None
    top_logprobs: Tensor | None
    label_logprobs: Tensor | None
    support_ids: Tensor | None
    support_lengths: Tensor | None


def pad_completions(completions: Sequence[Completion]) -> Padded:
    """Pad n completions to the longest, L. What not every completion has is None; `forced_mask` if none has it."""
    lengths = np.array([len(c.token_ids) for c in completions], np.int32)
    token_ids = pad([c.token_ids for c in completions], np.int32)
    scores = [c.score for c in completions if c.score is not None]
    support_ids = [c.support_ids for c in completions if c.support_ids is not None]
    complete = len(completions)
    return Padded(
        token_ids=Tensor.of(token_ids),
        lengths=Tensor.of(lengths),
        response_mask=Tensor.of(np.arange(token_ids.shape[1]) < lengths[:, None]),
        logprobs=_padded([c.logprobs for c in completions], np.float32),
        scores=Tensor.of(np.array(scores, np.float32)) if len(scores) == complete else None,
        forced_mask=_forced(completions),
        top_token_ids=_padded([c.top_token_ids for c in completions], np.int32),
        top_logprobs=_padded([c.top_logprobs for c in completions], np.float32),
        label_logprobs=_padded([c.label_logprobs for c in completions], np.float32),
        support_ids=Tensor.of(np.concatenate(support_ids)) if len(support_ids) == complete else None,
        support_lengths=_padded([c.support_lengths for c in completions], np.int32),
    )


def _padded(rows: Sequence[NDArray[Any] | None], dtype: type[np.generic]) -> Tensor | None:
    there = [row for row in rows if row is not None]
    return Tensor.of(pad(there, dtype)) if len(there) == len(rows) else None


def _forced(completions: Sequence[Completion]) -> Tensor | None:
    if all(c.forced is None for c in completions):
        return None
    rows = [np.zeros(len(c.token_ids), np.bool_) if c.forced is None else c.forced for c in completions]
    return Tensor.of(pad(rows, np.bool_))
