"""Batches of every shape, made as a worker and `assemble` make them, and their comparison."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from hypothesis import strategies as st

from rollstream import GenerationConfig, RolloutBatch, SamplingSupport
from rollstream.producer.rollouts.assemble import assemble
from tests.support.answers import batch_of, error_of
from tests.support.engine.candidates import rich_result

IDS = st.lists(st.integers(0, 50), max_size=4)


@st.composite
def batches(draw: st.DrawFn, k: int = 2, n: int | None = None) -> RolloutBatch:
    """One of 1 to 3 prompts, each with `n` completions or a failure, with candidates, labels and a support."""
    each = draw(st.integers(1, 3)) if n is None else n
    config = GenerationConfig(
        max_new_tokens=4,
        num_return_sequences=each,
        top_k=3,
        top_logprobs=k,
        label_token_ids=(1,),
        sampling_support=True,
    )
    prompts = draw(st.lists(IDS, min_size=1, max_size=3))
    answers: dict[int, Any] = {}
    for group, prompt in enumerate(prompts):
        completions = draw(st.lists(IDS, min_size=each, max_size=each))
        kept = [[[token, 60][: draw(st.integers(1, 2))] for token in ids] for ids in completions]
        result = rich_result(group, prompt, completions, k=k, labels=1, kept=kept)
        answers[group] = error_of(group, prompt) if draw(st.integers(0, 3)) == 0 else result
    return assemble(batch_of(prompts, config), answers, pad_token_id=9)


def assert_same(one: RolloutBatch, other: RolloutBatch) -> None:
    for field in fields(RolloutBatch):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, torch.Tensor):
            assert mine.dtype == its.dtype, field.name
            assert torch.equal(mine, its), field.name
        elif isinstance(mine, SamplingSupport):
            assert torch.equal(mine.lengths, its.lengths)
            assert torch.equal(mine.ids, its.ids)
        else:
            assert mine == its, field.name
