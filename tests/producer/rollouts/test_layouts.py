"""ROLL and verl get their own keys, shapes and dtypes; the rows equal what one computes by hand."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollstream import GenerationConfig, RolloutBatch
from rollstream.producer.batches.read_answers import Answer
from rollstream.producer.rollouts.assemble import assemble
from tests.producer.rollouts.test_rollout_batch import TOKENS, assembled
from tests.support.answers import batch_of, error_of, result_of

PAD, EOS = 0, 2


def sample() -> RolloutBatch:
    """Two prompts of 3 and 1 tokens, pad sampled mid-sequence, one response cut by length."""
    return assembled([([5, 6, 7], [[8, EOS]]), ([4], [[PAD, 9, 9]])])


def test_roll_rows_are_right_padded_with_shifted_log_probs() -> None:
    rows = {key: value.tolist() for key, value in sample().roll().items()}
    assert rows == {
        "prompts": [[5, 6, 7], [PAD, PAD, 4]],
        "responses": [[8, EOS, PAD], [PAD, 9, 9]],
        "input_ids": [[5, 6, 7, 8, EOS, PAD], [4, PAD, 9, 9, PAD, PAD]],
        "attention_mask": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]],
        "position_ids": [[0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 3, 3]],
        "prompt_mask": [[True, True, True, False, False, False], [True, False, False, False, False, False]],
        "response_mask": [[0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]],
        "infer_logprobs": [[0.0, 0.0, -1.0, -1.125, 0.0], [-1.0, -1.125, -1.25, 0.0, 0.0]],
    }


def test_roll_dtypes_are_those_of_postprocess_generate() -> None:
    dtypes = {key: value.dtype for key, value in sample().roll().items()}
    assert dtypes == {
        "prompts": torch.int64,
        "responses": torch.int64,
        "input_ids": torch.int64,
        "attention_mask": torch.int64,
        "position_ids": torch.int64,
        "prompt_mask": torch.bool,
        "response_mask": torch.int64,
        "infer_logprobs": torch.float32,
    }


def test_verl_rows_are_those_of_its_agent_loop() -> None:
    rows = sample().verl()
    assert {key: value.tolist() for key, value in rows.items()} == {
        "prompts": [[5, 6, 7], [PAD, PAD, 4]],
        "responses": [[8, EOS, PAD], [PAD, 9, 9]],
        "response_mask": [[1, 1, 0], [1, 1, 1]],
        "input_ids": [[5, 6, 7, 8, EOS, PAD], [PAD, PAD, 4, PAD, 9, 9]],
        "attention_mask": [[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]],
        "position_ids": [[0, 1, 2, 3, 4, 4], [0, 0, 0, 1, 2, 3]],
        "rollout_log_probs": [[-1.0, -1.125, 0.0], [-1.0, -1.125, -1.25]],
    }
    assert rows["rollout_log_probs"].dtype == torch.float32
    assert {value.dtype for key, value in rows.items() if key != "rollout_log_probs"} == {torch.int64}


def test_without_log_probs_neither_has_their_key() -> None:
    config = GenerationConfig(max_new_tokens=4, logprobs=None)
    rollouts = assemble(batch_of([[5]], config), {0: result_of(0, [5], [[7]], logprobs=None, logprobs_flavour=None)})
    assert "infer_logprobs" not in rollouts.roll()
    assert "rollout_log_probs" not in rollouts.verl()


def test_fixed_width_is_rolls_sequence_length() -> None:
    rollouts = assembled([([5, 6], [[7]])], max_new_tokens=4, pad_to_max_new_tokens=True)
    assert rollouts.roll()["input_ids"].shape == (1, 2 + 4)
    assert rollouts.roll()["infer_logprobs"].shape == (1, 2 + 4 - 1)
    assert rollouts.verl()["responses"].shape == (1, 4)


def test_failed_rows_without_any_token_keep_their_place() -> None:
    answers: dict[int, Answer] = {0: error_of(0), 1: result_of(1, [4, 5], [[7, 8]])}
    roll = assemble(batch_of([[1], [4, 5]], GenerationConfig(max_new_tokens=4)), answers).roll()
    assert roll["input_ids"].tolist() == [[PAD] * 4, [4, 5, 7, 8]]
    assert roll["attention_mask"].tolist() == [[0] * 4, [1] * 4]
    assert roll["infer_logprobs"].tolist() == [[0.0] * 3, [0.0, -1.0, -1.125]]


def test_a_batch_of_failures_only_has_both_layouts() -> None:
    rollouts = assemble(batch_of([[8, 9]], GenerationConfig(max_new_tokens=4)), {0: error_of(0, [8, 9])})
    assert rollouts.roll()["infer_logprobs"].tolist() == [[0.0]]
    assert rollouts.verl()["responses"].shape == (1, 0)


def test_changing_a_layout_does_not_change_the_batch() -> None:
    rollouts = sample()
    before = rollouts.sequences.clone()
    for rows in (rollouts.roll(), rollouts.verl()):
        for tensor in rows.values():
            tensor.zero_()
    assert torch.equal(rollouts.sequences, before)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.booleans(), st.data())
def test_roll_holds_the_tokens_and_log_probs_of_every_row(pad: int, fixed: bool, data: st.DataObject) -> None:
    prompts = st.lists(st.integers(0, 4), min_size=1, max_size=5)
    rows = data.draw(st.lists(st.tuples(prompts, st.lists(TOKENS, min_size=2, max_size=2)), min_size=1, max_size=3))
    roll = assembled(rows, pad, pad_to_max_new_tokens=fixed).roll()
    expected = [(prompt, completion, i) for prompt, completions in rows for i, completion in enumerate(completions)]
    assert torch.equal(roll["position_ids"], (roll["attention_mask"].cumsum(-1) - 1).clip(min=0))
    assert torch.equal(roll["prompt_mask"].long() + roll["response_mask"], roll["attention_mask"])
    for row, (prompt, completion, i) in enumerate(expected):
        width, tokens = roll["input_ids"].shape[1], [*prompt, *completion]
        assert roll["input_ids"][row].tolist() == tokens + [pad] * (width - len(tokens))
        log_probs = [0.0] * (len(prompt) - 1) + [-(i + 1) - j / 8 for j in range(len(completion))]
        assert roll["infer_logprobs"][row].tolist() == log_probs + [0.0] * (width - 1 - len(log_probs))
