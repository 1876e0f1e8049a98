"""Golden jobs for tests, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rollstream.schemas import GenerationConfig, Golden, GoldenBatch, Tensor
from rollstream.worker.engine import Engine
from rollstream.worker.jobs.seeds import prompt_seed
from rollstream.worker.requests import GenerateRequest

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


async def sampled_by(engine: Engine, config: GenerationConfig, prompts: Sequence[Sequence[int]]) -> GoldenBatch:
    """What this engine samples for the jobs of a batch, by way of a queue."""
    given = [await engine.generate(_request(config, row, prompt)) for row, prompt in enumerate(prompts)]
    completions = [one for group in given for one in group]
    return GoldenBatch(
        config=config,
        prompt_ids=int32([token for prompt in prompts for token in prompt]),
        prompt_lengths=int32([len(prompt) for prompt in prompts]),
        token_ids=Tensor.of(np.concatenate([one.token_ids for one in completions])),
        lengths=int32([len(one.token_ids) for one in completions]),
        logprobs=Tensor.of(np.concatenate([one.logprobs for one in completions if one.logprobs is not None])),
    )


def _request(config: GenerationConfig, row: int, prompt: Sequence[int]) -> GenerateRequest:
    seed = None if config.seed is None else prompt_seed(config.seed, row)
    return GenerateRequest(
        request_id=f"r{row}", prompt=[*prompt], config=config, stop_token_ids=(2,), seed=seed, adapter=None
    )


def with_logprob(whole: Golden, batch: int, token: int, logprob: float) -> Golden:
    """The same with another log-prob for one token of one batch."""
    changed = whole.batches[batch].logprobs.numpy().copy()
    changed[token] = logprob
    batches = list(whole.batches)
    batches[batch] = batches[batch].model_copy(update={"logprobs": Tensor.of(changed)})
    return whole.model_copy(update={"batches": tuple(batches)})
