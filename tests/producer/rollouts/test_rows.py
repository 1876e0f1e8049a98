"""Rows that are picked, joined, moved and iterated are the rows that were there, with all that belongs to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollstream import ArgumentError, GenerationConfig, RolloutBatch, RowsError
from rollstream.producer.rollouts.assemble import assemble
from rollstream.schemas import Tensor
from tests.producer.rollouts.batches import assert_same, batches
from tests.support.answers import batch_of, error_of, result_of
from tests.support.engine.candidates import rich_result


def three(**options: Any) -> RolloutBatch:
    """Three prompts with two completions each, of which the second failed."""
    config = GenerationConfig(max_new_tokens=4, num_return_sequences=2)
    answers: dict[int, Any] = {
        0: result_of(0, [1], [[10], [11, 12]]),
        1: error_of(1, [2, 3]),
        2: result_of(2, [4], [[13], [14]]),
    }
    return assemble(batch_of([[1], [2, 3], [4]], config), answers, **options)


def test_an_index_is_a_prompt() -> None:
    rollouts = three()
    assert (len(rollouts), rollouts.num_rows) == (3, 6)
    assert rollouts[0].responses == [[10], [11, 12]]
    assert rollouts[-1].responses == [[13], [14]]
    assert rollouts[1].finish_reasons == ("error", "error")
    assert rollouts[1].errors[0].group == 1
    assert rollouts[1:].responses == [[], [], [13], [14]]
    assert list(rollouts[1:].errors) == [0]
    assert [one.prompts for one in rollouts] == [[[1], [1]], [[2, 3], [2, 3]], [[4], [4]]]
    assert rollouts.sequences[rollouts.rows(2)].tolist() == [[0, 4, 13, 0], [0, 4, 14, 0]]
    assert len(rollouts[3:]) == 0


@pytest.mark.parametrize("prompt", [3, -4])
def test_a_prompt_that_is_not_there_is_an_index_error(prompt: int) -> None:
    with pytest.raises(IndexError, match=f"prompt {prompt} of 3"):
        three()[prompt]
    with pytest.raises(IndexError, match=f"prompt {prompt} of 3"):
        three().rows(prompt)


def test_rows_are_selected_by_a_mask_over_rows_or_prompts() -> None:
    rollouts = three()
    by_rows = rollouts.select([False, True, False, False, True, True])
    assert by_rows.responses == [[11, 12], [13], [14]]
    assert by_rows.group_index.tolist() == [0, 1, 1]
    assert (by_rows.errors, by_rows.num_return_sequences, len(by_rows)) == ({}, 2, 2)
    assert repr(by_rows) == "<RolloutBatch batch: 3 rows (2 prompts), 2 + 2 columns>"
    by_prompts = rollouts.select(np.array([False, True, True]))
    assert by_prompts.responses == [[], [], [13], [14]]
    assert list(by_prompts.errors) == [0]
    assert len(rollouts.select(torch.zeros(6, dtype=torch.bool))) == 0


@pytest.mark.parametrize("mask", [[True] * 4, [0, 1, 1], [[True] * 6]], ids=["another length", "integers", "2-d"])
def test_another_mask_is_refused(mask: object) -> None:
    with pytest.raises(RowsError, match="expected booleans for 6 rows or 3 prompts"):
        three().select(mask)


def test_a_step_is_refused() -> None:
    with pytest.raises(RowsError, match="without a step"):
        three()[::2]


@settings(max_examples=40, deadline=None)
@given(batches(), st.data())
def test_the_prompts_of_a_batch_joined_again_are_the_batch(rollouts: RolloutBatch, data: st.DataObject) -> None:
    assert_same(RolloutBatch.cat(list(rollouts)), rollouts)
    mask = data.draw(st.lists(st.booleans(), min_size=rollouts.num_rows, max_size=rollouts.num_rows))
    chosen = rollouts.select(mask)
    assert chosen.responses == [ids for ids, there in zip(rollouts.responses, mask, strict=True) if there]
    assert chosen.support is not None
    assert chosen.support.ids.numel() == int(chosen.support.lengths.sum())
    kept = [error for prompt, error in rollouts.errors.items() if any(mask[rollouts.rows(prompt)])]
    assert list(chosen.errors.values()) == kept


@settings(max_examples=40, deadline=None)
@given(batches(k=2), batches(k=3))
def test_batches_of_any_widths_are_joined(first: RolloutBatch, second: RolloutBatch) -> None:
    joined = RolloutBatch.cat([first, second])
    assert joined.prompts == first.prompts + second.prompts
    assert joined.responses == first.responses + second.responses
    assert len(joined) == len(first) + len(second)
    assert torch.equal(joined.position_ids, (joined.attention_mask.cumsum(-1) - 1).clip(min=0))
    assert (joined.sequences[joined.attention_mask == 0] == 9).all()
    assert joined.errors == first.errors | {len(first) + prompt: error for prompt, error in second.errors.items()}
    for name in ("old_log_probs", "top_log_probs", "top_token_ids", "label_log_probs"):
        whole, part = getattr(joined, name), getattr(second, name)
        rows = whole[first.num_rows :]
        assert torch.equal(rows[tuple(map(slice, part.shape))], part)
    assert joined.top_log_probs is not None
    lacking = joined.top_log_probs[: first.num_rows, :, 2]
    sampled = joined.response_mask[: first.num_rows, joined.prompt_len :].bool()
    assert lacking[sampled].isneginf().all()
    assert not lacking[~sampled].any()


def test_what_stands_for_nothing_is_filled_in() -> None:
    plain = assemble(batch_of([[1]], GenerationConfig(max_new_tokens=2)), {0: result_of(0, [1], [[7]])})
    forced = assemble(
        batch_of([[1]], GenerationConfig(max_new_tokens=2)), {0: rich_result(0, [1], [[7, 8]], forced=[[0, 1]])}
    )
    joined = RolloutBatch.cat([plain, forced])
    assert joined.forced_mask is not None
    assert joined.forced_mask.tolist() == [[0, 0], [0, 1]]
    assert joined.batch_id == "batch"


def test_rows_that_were_gone_on_with_say_after_how_many_tokens() -> None:
    config = GenerationConfig(max_new_tokens=3, num_return_sequences=2)
    plain = assemble(batch_of([[1]], config), {0: result_of(0, [1], [[7], [8]])})
    resumed = result_of(0, [1], [[7], [8, 9, 9]], resumed_at=Tensor.of(np.array([0, 2], np.int32)))
    rollouts = assemble(batch_of([[1], [2]], config), {0: resumed, 1: result_of(1, [2], [[5], [6]])})

    assert plain.resumed_at is None
    assert rollouts.resumed_at is not None
    assert (rollouts.resumed_at.tolist(), rollouts.resumed_at.dtype) == ([0, 2, 0, 0], torch.int64)
    assert [one.resumed_at for one in resumed.completions] == [0, 2]
    joined = RolloutBatch.cat([plain, rollouts])
    assert joined.resumed_at is not None
    assert joined.resumed_at.tolist() == [0, 0, 0, 2, 0, 0]
    assert joined.select(joined.resumed_at == 0).num_rows == 5


def test_batches_that_do_not_fit_are_refused() -> None:
    config = GenerationConfig(max_new_tokens=2, logprobs=None)
    bare = result_of(0, [1], [[7]], logprobs=None, logprobs_flavour=None)
    without = assemble(batch_of([[1]], config), {0: bare})
    tops = assemble(
        batch_of([[1]], GenerationConfig(max_new_tokens=2, top_logprobs=1)), {0: rich_result(0, [1], [[7]], k=1)}
    )
    for others, said in (
        ([], "there is none"),
        ([three(), without], "logprobs_flavour: that of batch 1 is None, that of batch 0 is 'processed'"),
        ([three(), three(pad_token_id=5)], "pad_token_id: that of batch 1 is 5"),
        ([three(), tops], "top_token_ids: batch 1 has them and batch 0 has none"),
        ([three(), "a text"], "each must be a RolloutBatch, one is a str"),
    ):
        with pytest.raises(RowsError, match=said):
            RolloutBatch.cat(others)  # type: ignore[arg-type] # on purpose


def test_everything_moves_to_another_device() -> None:
    result = rich_result(0, [1], [[7, 8]], kept=[[[7], [8, 9]]])
    config = GenerationConfig(max_new_tokens=2, top_k=2, sampling_support=True)
    moved = assemble(batch_of([[1]], config), {0: result}).to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.support is not None
    assert moved.support.ids.device.type == "meta"


def test_a_dict_has_what_there_is_of_each_row() -> None:
    result = rich_result(0, [1], [[7, 8], [9]], kept=[[[7], [8, 9]], [[9]]])
    config = GenerationConfig(max_new_tokens=2, top_k=2, sampling_support=True, num_return_sequences=2)
    given = assemble(batch_of([[1]], config), {0: result}).to_dict()
    assert {len(value) for value in given.values()} == {2}
    assert [ids.tolist() for ids in given["support_ids"]] == [[7, 8, 9], [9]]
    assert given["finish_reasons"] == ["stop", "stop"]
    assert "scores" not in given


class Letters:
    """A tokenizer whose ids are letters."""

    def decode(self, ids: list[int], /, *, skip_special_tokens: bool) -> str:
        return "".join(chr(97 + one) for one in ids if one < 13 or not skip_special_tokens)


def test_responses_are_decoded_without_padding() -> None:
    assert three().decode(Letters()) == ["k", "lm", "", "", "", ""]
    assert three().decode(Letters(), skip_special_tokens=False) == ["k", "lm", "", "", "n", "o"]


@pytest.mark.parametrize("tokenizer", [None, "folder", b"folder"])
def test_what_is_no_tokenizer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ArgumentError, match=r"tokenizer .*: give a tokenizer, such as transformers\.AutoTokenizer"):
        three().decode(tokenizer)
