"""Scores of generated rollouts, through a real Redis and a worker with the real engine, are what sampling gave."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import torch

from rollstream import AsyncClient, ErrorCode, GenerationConfig
from tests.support.engine.real_workers import REAL_POLICY, RealWorkers

pytestmark = pytest.mark.vllm

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16, 17], [300]]


@pytest.fixture
async def client(redis_url: str, real_workers: RealWorkers) -> AsyncIterator[AsyncClient]:
    real_workers.serving()
    async with AsyncClient(redis_url, policy=REAL_POLICY) as client:
        yield client


@pytest.mark.parametrize("adapter", [None, "math@1"])
async def test_scores_of_rollouts_are_the_log_probs_of_their_sampling(client: AsyncClient, adapter: str | None) -> None:
    config = GenerationConfig(max_new_tokens=16, num_return_sequences=3)  # at temperature 1 processed is raw
    rollouts = await client.generate([*PROMPTS, [10**6]], None, config, adapter=adapter, timeout=60)

    scores = await client.score(rollouts, adapter=adapter, top_logprobs=4, rows_per_job=2, timeout=60)

    assert rollouts.old_log_probs is not None
    assert scores.log_probs.shape == rollouts.old_log_probs.shape
    assert torch.allclose(scores.log_probs, rollouts.old_log_probs, atol=1e-4)
    assert scores.scored_mask.tolist() == rollouts.response_mask[:, rollouts.prompt_len :].tolist()
    assert {row: error.code for row, error in scores.errors.items()} == dict.fromkeys(
        (12, 13, 14), ErrorCode.EMPTY_PROMPT
    )
    assert scores.top_log_probs is not None
    assert (scores.top_log_probs[..., 0] >= scores.log_probs - 1e-6).all()


async def test_a_padded_array_is_scored_as_its_rows_alone(client: AsyncClient) -> None:
    ids = torch.tensor([[0, 0, 5, 6, 7, 8], [1, 9, 10, 11, 12, 13]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])

    padded = await client.score(ids, mask, first=4, timeout=60)
    whole = await client.score([[5, 6, 7, 8], [1, 9, 10, 11, 12, 13]], timeout=60)

    assert padded.log_probs.shape == (2, 2)
    assert torch.allclose(padded.log_probs[0], whole.log_probs[0, 1:3], atol=1e-5)
    assert torch.allclose(padded.log_probs[1], whole.log_probs[1, 3:5], atol=1e-5)
