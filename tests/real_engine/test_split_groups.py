"""A group that two vLLM workers sample together has the tokens that one of them samples alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from rollstream import AsyncClient, GenerationConfig, GroupResult
from tests.support.engine.real_workers import REAL_POLICY, RealWorkers

pytestmark = pytest.mark.vllm

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16, 17], [300]]


@pytest.fixture
async def client(redis_url: str, real_workers: RealWorkers) -> AsyncIterator[AsyncClient]:
    real_workers.serving(2)
    async with AsyncClient(redis_url, policy=REAL_POLICY) as client:
        yield client


async def groups(client: AsyncClient, config: GenerationConfig, **options: Any) -> list[GroupResult]:
    handle = await client.submit(PROMPTS, None, config, prompts_per_job=1, **options)
    answers = await handle.wait(90)
    assert all(isinstance(answer, GroupResult) for answer in answers.values()), answers
    return [answers[group] for group in sorted(answers)]  # type: ignore[misc]


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"temperature": 0.8, "top_p": 0.95}], ids=["greedy", "sampled"])
async def test_a_split_group_is_sampled_as_an_unsplit_one(client: AsyncClient, fields: dict[str, Any]) -> None:
    config = GenerationConfig(max_new_tokens=24, num_return_sequences=4, seed=3, top_logprobs=2, **fields)

    whole = await groups(client, config)
    split = await groups(client, config, samples_per_job=1, expected_tokens=[1, 4, 2, 3])

    for one, other in zip(whole, split, strict=True):
        assert other.token_ids.numpy().tolist() == one.token_ids.numpy().tolist()
        assert (other.finish_reasons, other.stop_reasons) == (one.finish_reasons, one.stop_reasons)
        assert one.logprobs is not None
        assert other.logprobs is not None
        assert np.allclose(one.logprobs.numpy(), other.logprobs.numpy(), atol=1e-4)
    different = len({row.tobytes() for row in split[0].token_ids.numpy()})
    assert different == (1 if "top_k" in fields else 4)
