"""Rows become jobs of bounded rows and tokens, none of them shortened; the same content has the same digest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollstream import ArgumentError, NameRefusedError, PromptsError
from rollstream.producer.batches.deadlines import Deadlines
from rollstream.producer.policies.version_bounds import VersionBounds
from rollstream.producer.scores.rows import ScoreRows
from rollstream.producer.scores.submission import ScoreSubmission, split_rows
from rollstream.schemas import ScoreJob, decode


def submission(rows: Any, mask: Any = None, first: Any = None, **changes: Any) -> ScoreSubmission:
    arguments: dict[str, Any] = {
        "top_logprobs": 0, "batch_id": "b", "adapter": None, "rows_per_job": 32, "submitted_at": 1.0,
    }  # fmt: skip
    return split_rows(ScoreRows.of(rows, mask, first), **arguments | changes)


def jobs(made: ScoreSubmission) -> list[ScoreJob]:
    return [decode(payload, ScoreJob) for _, payload in made.jobs]


def test_a_batch_is_sliced_by_rows() -> None:
    made = submission([[1, 2], [3, 4, 5], [6, 7]], rows_per_job=2, top_logprobs=4, adapter="math@3")
    first, second = jobs(made)
    assert ([row.tolist() for row in first.rows], first.firsts.tolist()) == ([[1, 2], [3, 4, 5]], [1, 1])
    assert ([row.tolist() for row in second.rows], list(second.groups)) == ([[6, 7]], [2])
    assert (second.num_groups, second.top_logprobs, second.adapter) == (3, 4, "math@3")
    assert (made.batch.num_jobs, made.batch.width) == (2, 2)
    assert [envelope.kind for envelope, _ in made.jobs] == ["score", "score"]


def test_long_rows_make_smaller_jobs_and_none_is_shortened() -> None:
    lengths = [2**16, 2**16, 2**16, 2**18, 2]
    made = jobs(submission([np.ones(length, np.int64) for length in lengths]))
    assert [job.row_lengths.tolist() for job in made] == [lengths[:2], lengths[2:3], lengths[3:4], lengths[4:]]


def test_only_what_decides_the_scores_is_in_the_digest() -> None:
    base = submission([[1, 2, 3]]).digest
    assert submission([[1, 2, 3]], submitted_at=9.0, batch_id="c", deadlines=Deadlines.of(5, 5)).digest == base
    others = [
        submission([[1, 2, 4]]), submission([[1, 2], [3, 4]]), submission([[1, 2, 3]], first=2),
        submission([[1, 2, 3]], top_logprobs=1), submission([[1, 2, 3]], adapter="a@1"),
        submission([[1, 2, 3]], rows_per_job=1), submission([[1, 2, 3, 9]], [[1, 1, 1, 0]]),
        submission([[1, 2, 3]], bounds=VersionBounds.of(3, None)),
    ]  # fmt: skip
    assert len({base, *(made.digest for made in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"top_logprobs": 129}, ArgumentError), ({"top_logprobs": -1}, ArgumentError),
        ({"top_logprobs": True}, ArgumentError), ({"rows_per_job": 0}, ArgumentError),
        ({"rows_per_job": 4097}, ArgumentError), ({"batch_id": "a/b"}, NameRefusedError),
        ({"adapter": "math"}, NameRefusedError),
    ],
)  # fmt: skip
def test_bad_options_are_named(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        submission([[1, 2]], **changes)


def test_scores_that_no_message_carries_are_refused_with_their_row() -> None:
    long = np.ones(70_000, np.int64)
    assert jobs(submission([long], top_logprobs=100))
    with pytest.raises(PromptsError, match=r"row 1: the scores of 69999 tokens with 128 candidates .* later"):
        submission([[1, 2], long], top_logprobs=128)
