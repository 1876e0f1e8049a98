"""Padded tensors say how long each completion is by their mask and lengths, whatever ids it holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rollstream.worker.jobs.padding import pad_completions
from rollstream.worker.requests import Completion


def completion(tokens: list[int], *, logprobs: bool = True, score: float | None = None) -> Completion:
    return Completion(
        token_ids=np.array(tokens, np.int32),
        logprobs=np.full(len(tokens), -0.5, np.float32) if logprobs else None,
        finish_reason="stop",
        stop_reason=None,
        version_spans=((0, len(tokens)),),
        score=score,
    )


PAD = EOS = 0
CASES = {
    "pad is eos and ends it": [[5, EOS], [6, 7, 8]],
    "pad sampled in the middle": [[5, PAD, 6], [7]],
    "first token is pad": [[PAD, 5], [6, 7, 8]],
    "only eos": [[EOS], [6, 7]],
    "empty completion": [[], [6, 7]],
    "all empty": [[], []],
    "cut by length": [[5, 6, 7], [8, 9, 10]],
}


@pytest.mark.parametrize("rows", CASES.values(), ids=CASES.keys())
def test_the_mask_follows_from_lengths_and_never_from_ids(rows: list[list[int]]) -> None:
    padded = pad_completions([completion(row) for row in rows])

    mask = padded.response_mask.numpy()
    assert padded.lengths.numpy().tolist() == [len(row) for row in rows]
    assert [ids[m].tolist() for ids, m in zip(padded.token_ids.numpy(), mask, strict=True)] == rows
    assert mask.sum() == sum(len(row) for row in rows)
    assert padded.token_ids.shape == (len(rows), max(len(row) for row in rows))


def test_log_probs_are_zero_where_nothing_was_sampled() -> None:
    padded = pad_completions([completion([5]), completion([6, 7])])

    assert padded.logprobs is not None
    assert padded.logprobs.numpy().tolist() == [[-0.5, 0.0], [-0.5, -0.5]]


def test_log_probs_and_scores_are_absent_where_the_engine_gave_none() -> None:
    padded = pad_completions([completion([5], logprobs=False), completion([6], logprobs=False)])

    assert padded.logprobs is None
    assert padded.scores is None


def test_beam_scores_keep_their_order() -> None:
    padded = pad_completions([completion([5], score=-1.0), completion([6], score=-2.0)])

    assert padded.scores is not None
    assert padded.scores.numpy().tolist() == [-1.0, -2.0]


def test_candidates_and_labels_are_zero_after_a_completions_length() -> None:
    rows = [
        replace(
            completion(tokens),
            top_token_ids=np.full((len(tokens), 2), 7, np.int32),
            top_logprobs=np.full((len(tokens), 2), -np.inf, np.float32),
            label_logprobs=np.full((len(tokens), 3), -1.5, np.float32),
        )
        for tokens in ([5], [6, 7])
    ]

    padded = pad_completions(rows)

    assert padded.top_token_ids is not None
    assert padded.top_logprobs is not None
    assert padded.label_logprobs is not None
    assert padded.top_token_ids.tolist() == [[[7, 7], [0, 0]], [[7, 7], [7, 7]]]
    assert padded.top_logprobs.numpy()[0].tolist() == [[-np.inf] * 2, [0.0, 0.0]]
    assert padded.label_logprobs.shape == (2, 2, 3)
    assert padded.label_logprobs.numpy().sum() == -1.5 * 9


def test_supports_follow_one_another_and_their_lengths_are_padded() -> None:
    def supported(tokens: list[int], ids: list[int], lengths: list[int]) -> Completion:
        kept = np.array(ids, np.int32)
        return replace(completion(tokens), support_ids=kept, support_lengths=np.array(lengths, np.int32))

    padded = pad_completions([supported([5], [5, 6], [2]), supported([], [], []), supported([7, 8], [7, 8, 9], [1, 2])])

    assert padded.support_ids is not None
    assert padded.support_lengths is not None
    assert padded.support_ids.tolist() == [5, 6, 7, 8, 9]
    assert padded.support_lengths.tolist() == [[2, 0], [0, 0], [1, 2]]


def test_a_forced_token_is_marked_and_no_mask_says_that_none_was_forced() -> None:
    forced = replace(completion([5, 6]), forced=np.array([False, True]))

    padded = pad_completions([completion([7]), forced])

    assert padded.forced_mask is not None
    assert padded.forced_mask.tolist() == [[False, False], [False, True]]
    assert pad_completions([completion([7])]).forced_mask is None
