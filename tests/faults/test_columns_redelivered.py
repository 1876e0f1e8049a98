"""A job that asks for more than tokens loses nothing of it when its worker is killed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rollstream import Client, GenerationConfig, GroupError
from tests.support.fault_steps import kill, stub, wait_until_done
from tests.support.faults import Queue, audit

PROMPTS = [[5], [6, 7], [8]]
ASKED: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"top_logprobs": 3, "sampling_support": True, "top_k": 4}, ("top_token_ids", "top_log_probs", "support_ids")),
    ({"label_token_ids": (7, 9)}, ("label_log_probs",)),
]


@pytest.mark.parametrize(("options", "columns"), ASKED, ids=["candidates and supports", "labels"])
def test_a_killed_workers_job_comes_again_with_the_same_columns(
    redis_url: str, policy: str, client: Client, queue: Queue, options: dict[str, Any], columns: tuple[str, ...]
) -> None:
    config = GenerationConfig(max_new_tokens=10, ignore_eos=True, num_return_sequences=2, seed=3, **options)
    batch = client.submit(PROMPTS, None, config)
    with stub(redis_url, policy, group_s=0.5, at_once=1) as worker:
        wait_until_done(queue, batch.batch_id, 1, worker)
        kill(worker)
    with stub(redis_url, policy) as survivor:
        wait_until_done(queue, batch.batch_id, 3, survivor)
        undisturbed = client.generate(PROMPTS, None, config, timeout=30)

    answers = audit(redis_url, policy, batch.batch_id, 3)
    assert max(answer.delivery for answer in answers if not isinstance(answer, GroupError)) > 1
    found, expected = batch.result(timeout=10).to_dict(), undisturbed.to_dict()
    assert set(columns) <= set(found)
    for name in ("sequences", "old_log_probs", *columns):
        pairs = [(found[name], expected[name])] if isinstance(found[name], torch.Tensor) else None
        for one, other in pairs or zip(found[name], expected[name], strict=True):
            assert one.numel() > 0
            assert one.equal(other), name
