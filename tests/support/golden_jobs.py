"""Golden jobs for tests, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rollstream.schemas import GenerationConfig, Golden, GoldenBatch, Tensor

GREEDY = GenerationConfig(max_new_tokens=64, temperature=0.0)
SEEDED = GenerationConfig(max_new_tokens=64, seed=3)


def int32(values: Sequence[int]) -> Tensor:
    return Tensor.of(np.array(values, np.int32))


def golden_batch(
    config: GenerationConfig,
    completions: Sequence[tuple[Sequence[int], Sequence[float]]],
    prompt: Sequence[int] = (5, 6),
) -> GoldenBatch:
    """A batch whose prompts are all `prompt`, with these (ids, log-probs)."""
    prompts = len(completions) // config.num_return_sequences
    return GoldenBatch(
        config=config,
        prompt_ids=int32([*prompt] * prompts),
        prompt_lengths=int32([len(prompt)] * prompts),
        token_ids=int32([token for ids, _ in completions for token in ids]),
        lengths=int32([len(ids) for ids, _ in completions]),
        logprobs=Tensor.of(np.array([one for _, logprobs in completions for one in logprobs], np.float32)),
    )


def golden(*batches: GoldenBatch, **fields: Any) -> Golden:
    """A golden file of the model `m` with 100 ids, in float32, under version 0."""
    known: dict[str, Any] = {
        "model": "m",
        "vocab_size": 100,
        "dtype": "float32",
        "engine": "stub",
        "runs_on": "stub",
        "policy_version": 0,
        "recorded_at": 1000.5,
    }
    return Golden(batches=batches, **known | fields)
