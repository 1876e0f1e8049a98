"""What comes with each sampled token beside its log-prob: the likeliest ids, fixed labels, the sampling mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import Batch, GenerationConfig, GroupResult, Tensor

from .support import SamplingSupport

if TYPE_CHECKING:
    import torch

Results = Mapping[int, GroupResult]


def sampled(result: GroupResult) -> NDArray[np.bool_]:
    """(n, L), true where the policy sampled a token."""
    there = result.response_mask.numpy()
    return there if result.forced_mask is None else there & ~result.forced_mask.numpy()


def place(rows: NDArray[Any], values: Tensor, where: NDArray[np.bool_]) -> None:
    """Write a group's (n, L) or (n, L, K) values where `where`, (n, L), says so; other columns stay as they are."""
    width = min(values.shape[1], rows.shape[1])
    mask = where[:, :width].reshape(*where[:, :width].shape, *[1] * (rows.ndim - 2))
    np.copyto(rows[:, :width], values.numpy()[:, :width], where=mask)


def rows_of(config: GenerationConfig, group: int) -> slice:
    """The rows of a prompt."""
    n = config.completions_per_prompt
    return slice(group * n, group * n + n)


def candidates(batch: Batch, results: Results, response_len: int) -> dict[str, Any]:
    """The fields of a `RolloutBatch` that few configs ask for, by name; None where nothing was asked for."""
    config = batch.config
    k, m = config.top_logprobs, len(config.label_token_ids)
    tops = {group: result.top_token_ids for group, result in results.items()}
    top_logprobs = {group: result.top_logprobs for group, result in results.items()}
    labels = {group: result.label_logprobs for group, result in results.items()}
    forced = {group: result.forced_mask for group, result in results.items()}
    some_forced = config.thinking_budget is not None or any(mask is not None for mask in forced.values())

    def wide(values: Mapping[int, Tensor | None], dtype: type, *last: int) -> torch.Tensor:
        from torch import from_numpy  # noqa: PLC0415 - a producer that only submits needs no torch

        array: NDArray[Any] = np.zeros((batch.num_groups * config.completions_per_prompt, response_len, *last), dtype)
        for group, value in values.items():
            if value is not None:
                where = results[group].response_mask.numpy() if values is forced else sampled(results[group])
                place(array[rows_of(config, group)], value, where)
        return from_numpy(array)

    return {
        "top_token_ids": wide(tops, np.int64, k) if k else None,
        "top_log_probs": wide(top_logprobs, np.float32, k) if k else None,
        "label_token_ids": config.label_token_ids,
        "label_log_probs": wide(labels, np.float32, m) if m else None,
        "support": _support(batch, results, response_len) if config.sampling_support else None,
        "forced_mask": wide(forced, np.int64) if some_forced else None,
        "resumed_at": _resumed_at(batch, results),
    }


def _resumed_at(batch: Batch, results: Results) -> torch.Tensor | None:
    """(R,), or None if no row was resumed."""
    resumed = {group: result.resumed_at for group, result in results.items() if result.resumed_at is not None}
    if not resumed:
        return None
    from torch import from_numpy  # noqa: PLC0415 - as above

    rows = np.zeros(batch.num_groups * batch.config.completions_per_prompt, np.int64)
    for group, tokens in resumed.items():
        rows[rows_of(batch.config, group)] = tokens.numpy()
    return from_numpy(rows)


def _support(batch: Batch, results: Results, response_len: int) -> SamplingSupport:
    from torch import from_numpy  # noqa: PLC0415 - as above

    lengths = np.zeros((batch.num_groups * batch.config.completions_per_prompt, response_len), np.int64)
    parts = [np.zeros(0, np.int32)]
    for group, result in sorted(results.items()):
        if result.support_ids is not None and result.support_lengths is not None:
            where = sampled(result)
            place(lengths[rows_of(batch.config, group)], result.support_lengths, where)
            of_each = result.support_lengths.numpy().ravel()
            parts.append(result.support_ids.numpy()[np.repeat(where.ravel(), of_each)])
    return SamplingSupport(ids=from_numpy(np.concatenate(parts)), lengths=from_numpy(lengths))
