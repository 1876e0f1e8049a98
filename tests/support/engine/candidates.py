"""Answers with what few configs ask for: candidates, labels, the sampling mask, forced tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rollstream.schemas import GroupResult, Tensor
from tests.support.answers import result_of


def rich_result(
    group: int,
    prompt: Sequence[int],
    completions: Sequence[Sequence[int]],
    *,
    k: int = 0,
    labels: int = 0,
    kept: Sequence[Sequence[Sequence[int]]] | None = None,
    forced: Sequence[Sequence[int]] | None = None,
    **changes: Any,
) -> GroupResult:
    """Candidate c at column j of completion i: id 100 * i + 10 * j + c, log-prob -c - j / 8; labels likewise.

    `kept`: for each completion the ids that each of its tokens was sampled from.
    """
    n, width = len(completions), max(map(len, completions))
    there = np.arange(width) < np.array([len(ids) for ids in completions])[:, None]
    fields: dict[str, Any] = {}
    if k:
        ids = (100 * np.arange(n)[:, None] + 10 * np.arange(width))[..., None] + np.arange(k)
        fields["top_token_ids"] = Tensor.of(np.where(there[..., None], ids, 0).astype(np.int32))
        fields["top_logprobs"] = _falling(there, k)
    if labels:
        fields["label_logprobs"] = _falling(there, labels)
    if kept is not None:
        lengths = np.array([[*map(len, row), *[0] * (width - len(row))] for row in kept], np.int32).reshape(n, width)
        flat = [token for row in kept for ids in row for token in ids]
        fields |= {"support_lengths": Tensor.of(lengths), "support_ids": Tensor.of(np.array(flat, np.int32))}
    if forced is not None:
        fields["forced_mask"] = Tensor.of(np.array(forced, np.bool_))
    return result_of(group, prompt, completions, **fields | changes)


def _falling(there: np.ndarray[Any, Any], last: int) -> Tensor:
    width = there.shape[1]
    values = -np.arange(last) - (np.arange(width) / 8)[:, None]
    return Tensor.of(np.where(there[..., None], values, 0).astype(np.float32))
