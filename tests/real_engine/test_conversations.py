"""Turns on the real engine: sampled after the whole conversation, and from its prefix cache where the worker has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rollstream import Client, GenerationConfig, GroupResult
from tests.support.engine.real_workers import REAL_POLICY, RealWorkers
from tests.support.engine.transformers_reference import Reference

pytestmark = pytest.mark.vllm

GREEDY = GenerationConfig(max_new_tokens=24, temperature=0.0, ignore_eos=True)
BLOCK = 128
"""Tokens of a block of the prefix cache on the CPU; only whole blocks are found again."""


def answer(client: Client, prompt: list[int], config: GenerationConfig = GREEDY, **options: object) -> GroupResult:
    found = client.submit([prompt], None, config, **options).wait(90)[0]  # type: ignore[arg-type]
    assert isinstance(found, GroupResult), found
    return found


def test_a_turn_is_sampled_after_the_whole_conversation_and_computes_only_what_is_new(
    redis_url: str, real_workers: RealWorkers, tiny_model: Path
) -> None:
    real_workers.serving()
    prompt = [int(token) for token in np.random.default_rng(5).integers(3, 512, 300)]
    with Client(redis_url, policy=REAL_POLICY) as client:
        first = answer(client, prompt, batch_id="turn-1", session="talk", session_wait_s=30.0)
        second = answer(
            client, [7, 8, 9], batch_id="turn-2", session="talk", session_wait_s=30.0, continue_of=[("turn-1", 0, 0)]
        )
        whole = [*prompt, *first.completions[0].token_ids, 7, 8, 9]
        uncached = answer(client, whole[1:])
        several = answer(client, prompt, GenerationConfig(max_new_tokens=4, num_return_sequences=2))

    assert second.prompt_ids == whole
    assert (first.cached_tokens, second.cached_tokens) == (0, 2 * BLOCK)
    assert (uncached.cached_tokens, several.cached_tokens) == (0, None)
    told = Reference(tiny_model).logprobs(whole, second.completions[0].token_ids)
    assert second.logprobs is not None
    assert np.abs(second.logprobs.numpy()[0] - np.asarray(told)).max() < 2e-3
