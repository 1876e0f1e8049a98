"""Scores of a replayed row agree as closely as two engines do, and the first that does not is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rollstream.producer.replay.differences import Comparison
from rollstream.producer.replay.verify import compare
from rollstream.schemas import GroupScores, Tensor
from tests.support.answers import error_of

LIKELY = [-1.0, -2.0, -3.0]
IDS, TOP = [[4, 5, 6]], [[-1.0, -1.5, -3.0]]


def row(
    logprobs: Sequence[float] = LIKELY, ids: list[list[int]] | None = None, top: list[list[float]] | None = None,
    version: int = 2,
) -> GroupScores:  # fmt: skip
    fields: dict[str, Any] = {"batch_id": "b", "group": 0, "worker": "w", "queued_s": 0.0, "score_s": 0.0}
    if ids is not None and top is not None:
        fields["top_token_ids"] = Tensor.of(np.array(ids, np.int32))
        fields["top_logprobs"] = Tensor.of(np.array(top, np.float32))
    return GroupScores(logprobs=Tensor.of(np.array(logprobs, np.float32)), policy_version=version, **fields)


def compared(before: Any, after: Any, *dtypes: str) -> Comparison:
    return compare([(7, 0)], {7: before}, {0: after}, dtypes)


def told(comparison: Comparison) -> str:
    """The first difference, after the group's numbers."""
    return str(comparison.first).removeprefix("group 7 (0 in the replay), ")


def test_the_same_scores_are_counted_and_nothing_apart() -> None:
    found = compared(row(), row())
    assert (found.groups, found.completions, found.tokens, found.identical) == (1, 0, 3, True)
    assert found.apart is not None
    assert (found.apart.tokens, found.apart.mean, found.apart.largest, found.apart.dtype) == (3, 0.0, 0.0, "float32")


@pytest.mark.parametrize(
    ("dtypes", "off", "agrees"),
    [
        ((), 0.04, True), ((), 0.06, False), (("float32",), 0.06, False), (("float16",), 0.06, True),
        (("float32", "bfloat16"), 1.9, True), (("bfloat16",), 2.1, False), (("int3",), 0.06, False),
    ],
)  # fmt: skip
def test_the_coarsest_dtype_says_how_far_a_log_prob_may_be_off(
    dtypes: tuple[str, ...], off: float, agrees: bool
) -> None:
    found = compared(row(), row([-1.0, -2.0 - off, -3.0]), *dtypes)
    assert found.identical is agrees
    assert found.differing_groups == (not agrees)
    if not agrees:
        assert told(found) == f"position 1: log-prob -2.0 stored, {round(float(np.float32(-2.0 - off)), 6)} replayed"


def test_a_mean_that_is_off_names_the_worst_token() -> None:
    found = compared(row([-1.0] * 8), row([-1.01] * 6 + [-1.02, -1.01]))
    assert told(found) == "position 6: log-prob -1.0 stored, -1.02 replayed"


def test_rows_too_short_for_a_mean_have_one_together() -> None:
    pairs, rows, others = [(n, n) for n in range(4)], dict.fromkeys(range(4), row()), [-1.01, -2.01, -3.01]
    found = compare(pairs, rows, dict.fromkeys(range(4), row(others)))
    assert (found.first, found.identical) == (None, False)
    assert str(found.apart) == (
        "log-probs are 0.01 nats apart on average and 0.01 at most, 0.002 and 0.05 allowed (float32)"
    )


@pytest.mark.parametrize(
    ("ids", "top", "difference"),
    [
        ([[5, 4, 6]], [[-1.5, -1.0, -3.0]], None),
        ([[4, 5, 9]], [[-1.0, -1.5, -2.98]], None),
        ([[4, 5, 6]], [[-1.0, -1.7, -3.0]], "candidate id 5 at -1.5 stored, id 5 at -1.7 replayed"),
        (
            [[4, 9, 6]], [[-1.0, -1.5, -3.0]],
            "candidate id 5 at -1.5 stored, id 5 not among 3, of which the last is at -3 replayed",
        ),
        (
            [[4, 5, 9]], [[-1.0, -1.5, -2.0]],
            "candidate id 9 not among 3, of which the last is at -3 stored, id 9 at -2 replayed",
        ),
        (
            [[9, 4, 5]], [[-0.5, -1.0, -1.5]],
            "candidate id 9 not among 3, of which the last is at -3 stored, id 9 at -0.5 replayed",
        ),
        ([[4, 5, 6]], [[-1.0, -1.5, -np.inf]], "candidate id 6 at -3 stored, id 6 at -inf replayed"),
        ([[4, 5]], [[-1.0, -1.5]], "candidates 3 stored, 2 replayed"),
        (None, None, "candidates 3 stored, 0 replayed"),
    ],
)  # fmt: skip
def test_candidates_may_swap_where_they_are_about_as_likely(
    ids: list[list[int]] | None, top: list[list[float]] | None, difference: str | None
) -> None:
    found = compared(row([-1.0], IDS, TOP), row([-1.0], ids, top))
    assert found.identical is (difference is None)
    assert told(found).removeprefix("position 0: ").endswith(difference or "None")


def test_candidates_beyond_the_first_positions_are_compared_too() -> None:
    many = 300
    before = row([-1.0] * many, IDS * many, TOP * many)
    after = row([-1.0] * many, [[4, 5, 6]] * 299 + [[4, 8, 6]], [[-1.0, -1.51, -3.0]] * many)
    assert told(compared(before, after)).startswith("position 299: candidate id 5 at -1.5 stored")


def test_endless_log_probs_of_candidates_agree() -> None:
    top = [[-1.0, -1.5, -np.inf]]
    assert compared(row([-1.0], [[4, 5, 6]], top), row([-1.0], [[4, 5, 9]], top)).identical


def test_what_another_version_scored_is_not_compared() -> None:
    found = compared(row(), row([-9.0, -9.0], version=3))
    assert (found.differing_groups, found.other_versions, found.identical) == (0, 1, False)
    assert str(found.first_other).endswith(": policy version 2 stored, 3 replayed")
    assert found.apart is not None
    assert found.apart.tokens == 0


def test_rows_of_another_length_and_errors_are_told_apart() -> None:
    assert told(compared(row(), row([-1.0]))).endswith("scored tokens 3 stored, 1 replayed")
    assert told(compared(row(), error_of(0))).endswith("answer scores stored, error too_long replayed")
    assert compared(error_of(7), error_of(0)).identical
