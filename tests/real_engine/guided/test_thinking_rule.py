"""Which ends of thinking were forced, against vLLM's own count of a budget, step by step."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from rollstream.worker.engines.vllm.guided.text_rules import forced_ends

pytestmark = pytest.mark.vllm

START, END = 3, 4


def _sampled(prompt: list[int], budget: int, wanted: list[int], again_at: int | None) -> tuple[list[int], list[bool]]:
    """What comes out where the model wants these tokens, and which of them vLLM forces instead.

    `again_at`: before which token the request is put back to wait, and its count begins again.
    """
    import torch
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.sample.thinking_budget_state import ThinkingBudgetStateHolder

    marks = SimpleNamespace(
        reasoning_start_token_ids=[START], reasoning_end_token_ids=[END], natural_reasoning_end_token_ids=[END]
    )
    output: list[int] = []
    forced: list[bool] = []
    for number, token in enumerate(wanted):
        if number in (0, again_at):
            holder = ThinkingBudgetStateHolder(marks, 1, 0, torch.device("cpu"), False)
            params = SimpleNamespace(thinking_token_budget=budget)
            holder.sync_batch(BatchUpdate(batch_size=1, removed=[], added=[(0, params, prompt, output)], moved=[]))
        holder.update_state([output], None)
        logits = holder.apply_to_logits(torch.zeros(1, 8), False, None)
        forced.append(bool(logits[0, END] > 0))
        output.append(END if forced[-1] else token)
    return output, forced


MANY = [40, pytest.param(2000, marks=pytest.mark.large)]


@pytest.mark.parametrize("runs", MANY)
def test_just_the_forced_ends_are_told_from_sampled_ones(runs: int) -> None:
    source = random.Random(1)
    seen = 0
    for _ in range(runs):
        prompt = source.choices([1, 2, START, END], k=source.randrange(1, 6))
        budget = source.randrange(6)
        wanted = source.choices([1, 2, START, END], [6, 6, 2, 1], k=24)
        output, forced = _sampled(prompt, budget, wanted, None)

        found = forced_ends(prompt, output, (START, END), budget).tolist()

        extra = [number for number in range(24) if found[number] and not forced[number]]
        assert not [number for number in range(24) if forced[number] and not found[number]], (prompt, budget, output)
        assert all(output[number] == END and output[number - budget - 1] == START for number in extra)
        seen += sum(forced)
    assert seen > runs / 2


@pytest.mark.parametrize("runs", MANY)
def test_no_forced_end_is_missed_where_the_count_began_again(runs: int) -> None:
    source = random.Random(2)
    for _ in range(runs):
        prompt = source.choices([1, 2, START, END], k=source.randrange(1, 6))
        budget = source.randrange(6)
        wanted = source.choices([1, 2, START, END], [6, 6, 2, 1], k=24)
        output, forced = _sampled(prompt, budget, wanted, source.randrange(1, 24))

        found = forced_ends(prompt, output, (START, END), budget).tolist()

        missed = [number for number in range(24) if forced[number] and not found[number]]
        assert not missed, (prompt, budget, output, missed)
