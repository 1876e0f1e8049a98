"""Several `RolloutBatch`es as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

from .padded import all_or_none, cat_padded, check_kind, one_of
from .rollout_fields import ROW_TUPLES, SELDOM_TUPLES, RolloutFields
from .support import SamplingSupport

if TYPE_CHECKING:
    import torch

CAT = "+"
"""Stands between the ids of batches that were put together; no id of one has it."""
F = TypeVar("F", bound=RolloutFields)

_SAME = "pad_token_id", "logprobs_flavour", "label_token_ids"
_WHOLE = "attention_mask", "prompt_mask", "response_mask"
"""(R, P + L), 0 in the padding."""
_RESPONSE = "old_log_probs", "top_token_ids", "label_log_probs"
"""(R, L) or (R, L, ...), 0 in the padding."""
_ROWS = "prompt_lengths", "response_lengths"


def cat_rollouts(kind: type[F], batches: Sequence[F]) -> F:
    """See `RolloutBatch.cat`. Raises `RowsError`."""
    check_kind(kind, batches)
    for name in _SAME:
        one_of(name, [getattr(one, name) for one in batches])
    prompt_len, response_len = (max(getattr(one, name) for one in batches) for name in ("prompt_len", "response_len"))
    firsts = [0, *accumulate(len(one) for one in batches)]
    return replace(
        batches[0],
        batch_id=CAT.join(dict.fromkeys(one.batch_id for one in batches)),
        prompt_len=prompt_len,
        response_len=response_len,
        spans_exact=all(one.spans_exact for one in batches),
        num_return_sequences=max(one.num_return_sequences for one in batches),
        errors={
            first + prompt: error
            for first, one in zip(firsts, batches, strict=False)
            for prompt, error in one.errors.items()
        },
        cut_lengths={
            first + prompt: lengths
            for first, one in zip(firsts, batches, strict=False)
            for prompt, lengths in one.cut_lengths.items()
        },
        **_tuples(batches) | _tensors(batches, firsts, prompt_len),
    )


def _tuples(batches: Sequence[RolloutFields]) -> dict[str, Any]:
    joined = {name: tuple(item for one in batches for item in getattr(one, name)) for name in ROW_TUPLES}
    return joined | {
        name: _of_rows(batches, name) for name in SELDOM_TUPLES if any(getattr(one, name) for one in batches)
    }


def _of_rows(batches: Sequence[RolloutFields], name: str) -> tuple[Any, ...]:
    """What a batch lacks where no row of it has any is filled in for each row."""
    return tuple(item for one in batches for item in getattr(one, name) or (SELDOM_TUPLES[name],) * one.num_rows)


def _tensors(batches: Sequence[RolloutFields], firsts: Sequence[int], prompt_len: int) -> dict[str, Any]:
    import torch  # noqa: PLC0415 - `import rollstream` imports no torch

    left = [prompt_len - one.prompt_len for one in batches]
    given: dict[str, Any] = {name: cat_padded([getattr(one, name) for one in batches], 0, left) for name in _WHOLE}
    given["sequences"] = cat_padded([one.sequences for one in batches], batches[0].pad_token_id, left)
    given["position_ids"] = (given["attention_mask"].cumsum(-1) - 1).clip(min=0)
    given["group_index"] = torch.cat([first + one.group_index for first, one in zip(firsts, batches, strict=False)])
    given |= {name: torch.cat([getattr(one, name) for one in batches]) for name in _ROWS}
    for name in _RESPONSE:
        values = [getattr(one, name) for one in batches]
        given[name] = cat_padded(values, 0) if all_or_none(name, values) else None
    return given | {
        "top_log_probs": _top_log_probs(batches),
        "scores": _filled(batches, "scores", math.nan),
        "forced_mask": _filled(batches, "forced_mask", 0),
        "sample_index": _filled(batches, "sample_index", -1),
        "resumed_at": _filled(batches, "resumed_at", 0),
        "support": _support(batches),
    }


def _top_log_probs(batches: Sequence[RolloutFields]) -> torch.Tensor | None:
    """Where a batch has fewer candidates than another, those that it lacks are impossible, and none was likelier."""
    tensors = [one.top_log_probs for one in batches if one.top_log_probs is not None]
    if not all_or_none("top_log_probs", [one.top_log_probs for one in batches]):
        return None
    from torch.nn.functional import pad  # noqa: PLC0415 - as above

    k = max(tensor.shape[2] for tensor in tensors)
    wide = [pad(tensor, (0, k - tensor.shape[2]), value=-math.inf) for tensor in tensors]
    unsampled = [one.response_mask[:, one.prompt_len :, None] == 0 for one in batches]
    return cat_padded([tensor.masked_fill(where, 0) for tensor, where in zip(wide, unsampled, strict=True)], 0)


def _filled(batches: Sequence[RolloutFields], name: str, fill: float) -> torch.Tensor | None:
    """What a batch may lack without another meaning: `fill` stands for it."""
    values = [getattr(one, name) for one in batches]
    some = next((value for value in values if value is not None), None)
    if some is None:
        return None
    whole = [
        some.new_full((one.num_rows, *([one.response_len] if some.ndim > 1 else [])), fill) if value is None else value
        for one, value in zip(batches, values, strict=True)
    ]
    return cat_padded(whole, fill)


def _support(batches: Sequence[RolloutFields]) -> SamplingSupport | None:
    supports = [one.support for one in batches if one.support is not None]
    return SamplingSupport.cat(supports) if all_or_none("support", [one.support for one in batches]) else None
