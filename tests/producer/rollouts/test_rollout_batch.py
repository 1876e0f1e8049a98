"""Each row of a `RolloutBatch` is its prompt and its completion, whatever ids they hold; masks follow from lengths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollstream import GenerationConfig, RolloutBatch
from rollstream.producer.batches.read_answers import Answer
from rollstream.producer.cli.jsonl import result_line
from rollstream.producer.rollouts.assemble import assemble
from rollstream.schemas import GroupResult, Tensor, decode, encode
from rollstream.schemas.wire.fields import FinishReason
from tests.support.answers import batch_of, error_of, result_of

PAD, EOS, EOS_2 = 0, 2, 3
Prompt = Sequence[int]
Completions = Sequence[Sequence[int]]


def assembled(
    rows: Sequence[tuple[Prompt, Completions]], pad_token_id: int = PAD, max_new_tokens: int = 6, **options: bool
) -> RolloutBatch:
    config = GenerationConfig(max_new_tokens=max_new_tokens, num_return_sequences=len(rows[0][1]))
    answers = {group: result_of(group, prompt, completions) for group, (prompt, completions) in enumerate(rows)}
    return assemble(batch_of([prompt for prompt, _ in rows], config), answers, pad_token_id=pad_token_id, **options)


def by_masks(rollouts: RolloutBatch) -> list[tuple[list[int], list[int]]]:
    """Prompt and completion of each row, as a trainer would cut them out."""
    return [
        (row[prompt.bool()].tolist(), row[response.bool()].tolist())
        for row, prompt, response in zip(rollouts.sequences, rollouts.prompt_mask, rollouts.response_mask, strict=True)
    ]


@pytest.mark.parametrize("pad_token_id", [PAD, EOS, 9], ids=["pad 0", "pad is EOS", "pad is a prompt's token"])
@pytest.mark.parametrize(
    "completion",
    [
        [7, 8, EOS],
        [7, PAD, 8, EOS],
        [PAD, 7, EOS],
        [EOS],
        [EOS, 7, EOS],
        [],
        [7, 8, 9, 7, 8, 9],
        [7, EOS, 8, EOS_2],
        [PAD, PAD, PAD],
    ],
    ids=[
        "ends with EOS",
        "pad sampled mid-sequence",
        "first token is pad",
        "first token is EOS",
        "EOS ignored, then EOS",
        "empty",
        "cut by length",
        "two EOS ids",
        "pads only",
    ],
)
def test_masks_cut_out_exactly_prompt_and_completion(completion: list[int], pad_token_id: int) -> None:
    rollouts = assembled([([9, PAD, EOS], [completion, [7, 7, 7, 7]]), ([5], [[EOS], completion])], pad_token_id)
    assert by_masks(rollouts) == [
        ([9, PAD, EOS], completion),
        ([9, PAD, EOS], [7, 7, 7, 7]),
        ([5], [EOS]),
        ([5], completion),
    ]


@pytest.mark.parametrize("reason", get_args(FinishReason))
def test_every_finish_reason_reaches_every_reader(reason: FinishReason) -> None:
    result = result_of(0, [5], [[7, 8], [9]], finish_reasons=(reason, "stop"))
    rollouts = assemble(batch_of([[5]], GenerationConfig(max_new_tokens=2, num_return_sequences=2)), {0: result})
    assert decode(encode(result), GroupResult) == result
    assert [one.finish_reason for one in result] == [reason, "stop"]
    assert rollouts.finish_reasons == (reason, "stop")
    assert rollouts.roll()["responses"].tolist() == rollouts.verl()["responses"].tolist() == [[7, 8], [9, PAD]]
    assert [one["finish_reason"] for one in json.loads(result_line(result))["completions"]] == [reason, "stop"]


def test_a_token_that_was_put_there_is_attended_to_and_not_trained_on() -> None:
    forced = Tensor.of(np.array([[0, 1, 1], [0, 0, 0]], np.bool_))
    answers: dict[int, Answer] = {
        0: result_of(0, [5, 6], [[7, 8, 9], [7]], forced_mask=forced),
        1: result_of(1, [4], [[7, 8, 9, 1], [7]]),
    }
    rollouts = assemble(batch_of([[5, 6], [4]], GenerationConfig(max_new_tokens=6, num_return_sequences=2)), answers)
    assert rollouts.sequences[0].tolist() == [5, 6, 7, 8, 9, PAD]
    assert rollouts.attention_mask[0].tolist() == [1, 1, 1, 1, 1, 0]
    assert rollouts.response_mask.tolist() == [
        [0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0],
    ]  # fmt: skip
    assert rollouts.old_log_probs is not None
    assert rollouts.old_log_probs[0].tolist() == [-1, 0, 0, 0]
    assert rollouts.response_lengths.tolist() == [3, 1, 4, 1]
    roll, verl = rollouts.roll(), rollouts.verl()
    assert roll["response_mask"].tolist() == [
        [0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0],
    ]  # fmt: skip
    assert roll["infer_logprobs"][0].tolist() == [0, -1, 0, 0, 0]
    assert roll["attention_mask"][0].tolist() == [1, 1, 1, 1, 1, 0]
    assert verl["response_mask"][0].tolist() == [1, 0, 0, 0]


def test_the_layout_is_a_left_padded_prompt_and_a_right_padded_response() -> None:
    rollouts = assembled([([5, 6], [[7, 8, EOS]]), ([4], [[EOS]])], pad_token_id=1)
    assert rollouts.sequences.tolist() == [[5, 6, 7, 8, EOS], [1, 4, EOS, 1, 1]]
    assert rollouts.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]]
    assert rollouts.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 0, 1, 1, 1]]
    assert rollouts.prompt_mask.tolist() == [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert rollouts.response_mask.tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 0, 0]]
    assert rollouts.old_log_probs is not None
    assert rollouts.old_log_probs.tolist() == [[-1.0, -1.125, -1.25], [-1.0, 0.0, 0.0]]
    assert (rollouts.prompt_len, rollouts.response_len) == (2, 3)
    assert (rollouts.prompt_lengths.tolist(), rollouts.response_lengths.tolist()) == ([2, 1], [3, 1])
    assert (rollouts.finish_reasons, rollouts.stop_reasons) == (("stop", "stop"), (EOS, EOS))
    assert rollouts.version_spans == (((0, 3),), ((0, 1),))
    assert rollouts.spans_exact
    assert rollouts.texts == (None, None)
    assert rollouts.scores is None
    assert repr(rollouts) == "<RolloutBatch batch: 2 rows (2 prompts x 1), 2 + 3 columns>"


def test_every_tensor_has_the_documented_dtype_and_shape() -> None:
    rollouts = assembled([([5, 6], [[7], [8, 8]]), ([4], [[EOS], []])])
    wide = (4, 2 + 2)
    expected = {
        "sequences": (torch.int64, wide),
        "attention_mask": (torch.int64, wide),
        "position_ids": (torch.int64, wide),
        "prompt_mask": (torch.int64, wide),
        "response_mask": (torch.int64, wide),
        "old_log_probs": (torch.float32, (4, 2)),
        "prompt_lengths": (torch.int64, (4,)),
        "response_lengths": (torch.int64, (4,)),
        "group_index": (torch.int64, (4,)),
    }
    found = {name: value for name, value in vars(rollouts).items() if isinstance(value, torch.Tensor)}
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} == expected


def test_the_samples_of_a_prompt_are_adjacent_and_in_submission_order() -> None:
    config = GenerationConfig(max_new_tokens=2, num_return_sequences=2)
    finish_order = {
        2: result_of(2, [3], [[30], [31]]),
        0: result_of(0, [1], [[10], [11]]),
        1: result_of(1, [2], [[20], [21]]),
    }
    rollouts = assemble(batch_of([[1], [2], [3]], config), finish_order)
    assert rollouts.sequences.tolist() == [[1, 10], [1, 11], [2, 20], [2, 21], [3, 30], [3, 31]]
    assert rollouts.group_index.tolist() == [0, 0, 1, 1, 2, 2]


def test_pad_to_max_new_tokens_fixes_the_width() -> None:
    rollouts = assembled([([5, 6], [[7]])], max_new_tokens=5, pad_to_max_new_tokens=True)
    assert rollouts.sequences.tolist() == [[5, 6, 7, PAD, PAD, PAD, PAD]]
    assert rollouts.response_len == 5
    assert rollouts.old_log_probs is not None
    assert rollouts.old_log_probs.shape == (1, 5)


def test_columns_of_the_submitted_prompts_are_kept() -> None:
    batch = batch_of([[5]], GenerationConfig(max_new_tokens=4), prompt_width=3)
    assert assemble(batch, {0: result_of(0, [5], [[7]])}).sequences.tolist() == [[PAD, PAD, 5, 7]]


@pytest.mark.parametrize("prompt", [[8, 9], None], ids=["prompt known", "prompt unknown"])
def test_a_failed_group_keeps_its_rows(prompt: list[int] | None) -> None:
    config = GenerationConfig(max_new_tokens=4, num_return_sequences=2)
    answers: dict[int, Answer] = {0: error_of(0, prompt), 1: result_of(1, [5], [[7], [7, 8]])}
    rollouts = assemble(batch_of([[8, 9], [5]], config), answers)
    assert by_masks(rollouts) == [(prompt or [], []), (prompt or [], []), ([5], [7]), ([5], [7, 8])]
    assert rollouts.finish_reasons == ("error", "error", "stop", "stop")
    assert rollouts.stop_reasons[:2] == (None, None)
    assert rollouts.version_spans[:2] == ((), ())
    assert rollouts.errors == {0: answers[0]}
    assert rollouts.old_log_probs is not None
    assert rollouts.old_log_probs[:2].count_nonzero() == 0


def test_a_batch_of_failures_only_is_still_a_batch() -> None:
    rollouts = assemble(batch_of([[8, 9]], GenerationConfig(max_new_tokens=4)), {0: error_of(0, [8, 9])})
    assert rollouts.sequences.tolist() == [[8, 9]]
    assert rollouts.response_len == 0
    assert rollouts.old_log_probs is not None
    assert rollouts.old_log_probs.shape == (1, 0)


def test_a_row_without_any_token_has_zero_masks_and_positions() -> None:
    rollouts = assemble(batch_of([[]], GenerationConfig(max_new_tokens=4), prompt_width=3), {0: error_of(0, [])})
    assert rollouts.attention_mask.tolist() == [[0, 0, 0]]
    assert rollouts.position_ids.tolist() == [[0, 0, 0]]


def test_without_log_probs_there_are_none() -> None:
    config = GenerationConfig(max_new_tokens=4, logprobs=None)
    rollouts = assemble(batch_of([[5]], config), {0: result_of(0, [5], [[7]], logprobs=None, logprobs_flavour=None)})
    assert rollouts.old_log_probs is None
    assert rollouts.logprobs_flavour is None


def test_beam_scores_and_texts_travel_with_their_rows() -> None:
    from rollstream.schemas import Tensor

    config = GenerationConfig(max_new_tokens=4, num_beams=2, num_return_sequences=2)
    scores = Tensor.of(np.array([-0.5, -0.75], np.float32))
    answers: dict[int, Answer] = {
        0: result_of(0, [5], [[7], [8]], scores=scores, texts=("seven", "eight"), spans_exact=False),
        1: error_of(1),
    }
    rollouts = assemble(batch_of([[5], [6]], config), answers)
    assert rollouts.scores is not None
    assert rollouts.scores.dtype == torch.float32
    assert rollouts.scores.tolist()[:2] == [-0.5, -0.75]
    assert rollouts.scores[2:].isnan().all()
    assert rollouts.texts == ("seven", "eight", None, None)
    assert not rollouts.spans_exact


TOKENS = st.lists(st.integers(0, 4), max_size=5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(0, 4), st.booleans(), st.data())
def test_rebuilding_rows_from_masks_gives_back_what_was_sampled(
    n: int, pad: int, fixed: bool, data: st.DataObject
) -> None:
    row = st.tuples(TOKENS, st.lists(TOKENS, min_size=n, max_size=n))
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    rollouts = assembled(rows, pad, pad_to_max_new_tokens=fixed)
    expected = [(prompt, completion) for prompt, completions in rows for completion in completions]
    assert by_masks(rollouts) == expected
    assert torch.equal(rollouts.attention_mask, rollouts.prompt_mask + rollouts.response_mask)
    assert torch.equal(rollouts.position_ids, (rollouts.attention_mask.cumsum(-1) - 1).clip(min=0))
    outside = rollouts.sequences[rollouts.attention_mask == 0]
    assert (outside == pad).all()
