"""What comes with each sampled token lies at its row and column; failed, padded and forced columns hold zeros."""

from __future__ import annotations

import pytest
import torch

from rollstream import GenerationConfig, RolloutBatch, UnreadableResultError
from rollstream.producer.batches.read_answers import read_answer
from rollstream.producer.rollouts.assemble import assemble
from rollstream.schemas import GroupResult, encode
from rollstream.schemas.wire.entry_fields import PAYLOAD
from tests.support.answers import batch_of, error_of
from tests.support.engine.candidates import rich_result

CONFIG = GenerationConfig(
    max_new_tokens=6, num_return_sequences=2, top_k=4, top_logprobs=3, label_token_ids=(5, 9), sampling_support=True
)
KEPT = [[[7, 8], [8], [9, 1, 2]], [[7]]]


def rich() -> RolloutBatch:
    result = rich_result(1, [5, 6], [[7, 8, 9], [7]], k=3, labels=2, kept=KEPT)
    return assemble(batch_of([[4], [5, 6]], CONFIG), {0: error_of(0), 1: result})


def test_candidates_lie_at_the_row_and_column_of_their_token() -> None:
    rollouts = rich()
    assert rollouts.top_token_ids is not None
    assert rollouts.top_log_probs is not None
    assert rollouts.label_log_probs is not None
    assert (rollouts.top_token_ids.dtype, rollouts.top_token_ids.shape) == (torch.int64, (4, 3, 3))
    assert (rollouts.top_log_probs.dtype, rollouts.top_log_probs.shape) == (torch.float32, (4, 3, 3))
    assert (rollouts.label_log_probs.dtype, rollouts.label_log_probs.shape) == (torch.float32, (4, 3, 2))
    assert rollouts.top_token_ids[2].tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert rollouts.top_token_ids[3].tolist() == [[100, 101, 102], [0, 0, 0], [0, 0, 0]]
    assert rollouts.top_log_probs[2, 1].tolist() == [-0.125, -1.125, -2.125]
    assert rollouts.label_log_probs[3].tolist() == [[0, -1], [0, 0], [0, 0]]
    assert rollouts.label_token_ids == (5, 9)


def test_a_failed_group_has_zeros_and_no_support() -> None:
    rollouts = rich()
    for tensor in (rollouts.top_token_ids, rollouts.top_log_probs, rollouts.label_log_probs):
        assert tensor is not None
        assert not tensor[:2].any()
    assert rollouts.support is not None
    assert rollouts.support.lengths.tolist() == [[0, 0, 0], [0, 0, 0], [2, 1, 3], [1, 0, 0]]
    assert rollouts.support.ids.tolist() == [7, 8, 8, 9, 1, 2, 7]
    assert (rollouts.support.ids.dtype, rollouts.support.lengths.dtype) == (torch.int32, torch.int64)
    assert rollouts.support.of(2, 2) == [9, 1, 2]
    assert rollouts.support.of(0, 0) == []


def test_a_forced_token_has_no_candidates_and_no_support() -> None:
    forced = [[0, 1, 0], [0, 0, 0]]
    result = rich_result(0, [5], [[7, 8, 9], [7]], k=3, labels=2, kept=KEPT, forced=forced)
    rollouts = assemble(batch_of([[5]], CONFIG), {0: result})
    assert rollouts.forced_mask is not None
    assert rollouts.forced_mask.tolist() == forced
    assert rollouts.forced_mask.dtype == torch.int64
    assert rollouts.response_mask[:, 1:].tolist() == [[1, 0, 1], [1, 0, 0]]
    assert rollouts.top_token_ids is not None
    assert rollouts.top_token_ids[0, 1].tolist() == [0, 0, 0]
    assert rollouts.support is not None
    assert rollouts.support.lengths.tolist() == [[2, 0, 3], [1, 0, 0]]
    assert rollouts.support.ids.tolist() == [7, 8, 9, 1, 2, 7]


def test_what_nobody_asked_for_is_none() -> None:
    rollouts = assemble(batch_of([[4]], GenerationConfig(max_new_tokens=2)), {0: rich_result(0, [4], [[7]])})
    names = ("top_token_ids", "top_log_probs", "label_log_probs", "support", "forced_mask")
    assert [getattr(rollouts, name) for name in names] == [None] * 5
    assert rollouts.label_token_ids == ()


def test_a_batch_of_failures_has_the_tensors_that_were_asked_for() -> None:
    rollouts = assemble(batch_of([[4]], CONFIG), {0: error_of(0)})
    assert rollouts.top_token_ids is not None
    assert rollouts.top_token_ids.shape == (2, 0, 3)
    assert rollouts.support is not None
    assert rollouts.support.lengths.shape == (2, 0)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (rich_result(0, [4], [[7], [8]], k=1, labels=2, kept=[[[7]], [[8]]]), "top_token_ids for 1 ids"),
        (rich_result(0, [4], [[7], [8]], k=3, kept=[[[7]], [[8]]]), "label_logprobs for 0 ids"),
        (rich_result(0, [4], [[7], [8]], k=3, labels=2), "support_ids are absent"),
        (
            rich_result(0, [4], [[7, 8], [7]], k=3, labels=2, kept=[[[7, 5], [8, 7, 9, 8]], [[7, 5]]]),
            "support_ids name 1 ids twice",
        ),
    ],
    ids=["another K", "no labels", "no support", "an id twice at a token"],
)
def test_a_result_that_is_not_as_asked_cannot_be_read(result: GroupResult, said: str) -> None:
    with pytest.raises(UnreadableResultError, match=said):
        read_answer(batch_of([[4]], CONFIG), b"1-0", {PAYLOAD: encode(result)})


def test_a_completion_has_its_columns_without_padding() -> None:
    forced = [[0, 1, 0], [0, 0, 0]]
    first, second = rich_result(0, [5], [[7, 8, 9], [7]], k=3, labels=2, kept=KEPT, forced=forced).completions
    assert first.top_token_ids is not None
    assert first.top_token_ids.tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert second.top_logprobs is not None
    assert second.top_logprobs.tolist() == [[0, -1, -2]]
    assert second.label_logprobs is not None
    assert second.label_logprobs.tolist() == [[0, -1]]
    assert first.support is not None
    assert second.support is not None
    assert [ids.tolist() for ids in first.support] == KEPT[0]
    assert [ids.tolist() for ids in second.support] == KEPT[1]
    assert first.forced is not None
    assert first.forced.tolist() == [False, True, False]


def test_a_completion_lacks_what_nobody_asked_for() -> None:
    (only,) = rich_result(0, [5], [[7]]).completions
    names = ("top_token_ids", "top_logprobs", "label_logprobs", "support", "forced")
    assert [getattr(only, name) for name in names] == [None] * 5
