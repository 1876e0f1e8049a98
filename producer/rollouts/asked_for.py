"""Whether a result has what its config asked for, so that no tensor is filled with what an answer lacks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GenerationConfig, GroupResult, Tensor

from .nonsense import nonsense


def not_as_asked(config: GenerationConfig, result: GroupResult) -> str | None:
    """What a result lacks, or has although nobody asked; None if it is as it must be."""
    if config.first_k is not None and (problem := _cut(config, result)) is not None:
        return problem
    if not result.token_ids.shape[1]:
        return None
    return (
        _columns("top_token_ids", result.top_token_ids, config.top_logprobs)
        or _columns("label_logprobs", result.label_logprobs, len(config.label_token_ids))
        or _support(result, config.sampling_support)
        or _candidates(result)
    )


def _cut(config: GenerationConfig, result: GroupResult) -> str | None:
    """What is wrong with the answer of a group of which only the first k samples were wanted."""
    if result.sample_index is None or result.cut_lengths is None:
        return f"sample_index or cut_lengths are absent, first_k is {config.first_k}"
    cut = result.cut_lengths.tolist()
    if len(cut) != config.num_return_sequences - config.completions_per_prompt:
        return f"{len(cut)} samples cut, of {config.num_return_sequences} with first_k {config.first_k}"
    if max(cut, default=0) > config.max_new_tokens:
        return f"a sample cut at {max(cut)} tokens, max_new_tokens is {config.max_new_tokens}"
    return None


def _columns(name: str, values: Tensor | None, asked: int) -> str | None:
    got = 0 if values is None else values.shape[2]
    return None if got == asked else f"{name} for {got} ids at each token, {asked} were asked for"


def _candidates(result: GroupResult) -> str | None:
    if result.top_token_ids is None or result.top_logprobs is None:
        return None
    sampled = result.response_mask.numpy()
    if result.forced_mask is not None:
        sampled &= ~result.forced_mask.numpy()
    return nonsense(result.top_token_ids.numpy()[sampled], result.top_logprobs.numpy()[sampled])


def _support(result: GroupResult, asked: bool) -> str | None:
    ids, lengths = result.support_ids, result.support_lengths
    if (lengths is not None) != asked:
        return f"support_ids are {'absent' if asked else 'present'}, sampling_support is {asked}"
    if ids is None or lengths is None:
        return None
    doubled = _doubled(ids.numpy(), lengths.numpy().reshape(-1))
    return f"support_ids name {doubled} ids twice at one token" if doubled else None


def _doubled(ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> int:
    """How many ids come again at their token: a softmax over the kept ids would count them as often."""
    keys = np.repeat(np.arange(len(lengths), dtype=np.int64) << 31, lengths)  # ids are not negative, so below 2**31
    keys += ids
    keys.sort()
    return int((keys[1:] == keys[:-1]).sum())
