"""Padded tensors say how long each completion is by their mask and lengths, whatever ids it holds."""

from __future__ import annotations

import numpy as np
import pytest

from rollstream.worker.engine import Completion
from rollstream.worker.jobs.padding import pad_completions


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
