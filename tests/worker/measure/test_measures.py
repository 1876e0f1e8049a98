"""What counts as what: answers by outcome, code and staleness, for the report, the history and Prometheus alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from rollstream.schemas import ErrorCode, GroupError, GroupResult, Tensor
from rollstream.schemas.hashes.history import MOST_STALE, HistoryField
from rollstream.worker.measure.measures import Measures


def result(versions: tuple[int, ...], lengths: tuple[int, ...] = (2, 3)) -> GroupResult:
    n, longest = len(lengths), max(lengths)
    reasons: tuple[Any, ...] = ("length",) * n
    return GroupResult(
        batch_id="b",
        group=0,
        prompt=Tensor.of(np.array([1], np.int32)),
        token_ids=Tensor.of(np.zeros((n, longest), np.int32)),
        lengths=Tensor.of(np.array(lengths, np.int32)),
        response_mask=Tensor.of(np.arange(longest)[None] < np.array(lengths)[:, None]),
        finish_reasons=reasons,
        stop_reasons=(None,) * n,
        version_spans=tuple(
            (*((version, 1) for version in versions[:-1]), (versions[-1], length - len(versions) + 1))
            for length in lengths
        ),
        worker="w",
        queued_s=0.0,
        generate_s=0.0,
    )


def sums(measures: Measures) -> dict[str, int]:
    return {name: value for name, value in measures.sums().items() if value}


def test_a_group_is_as_stale_as_the_oldest_version_that_sampled_it() -> None:
    measures = Measures()
    for versions in ((7,), (5, 7), (8,)):
        measures.answered(result(versions), asked=8, newest=7)

    assert sums(measures) == {
        HistoryField.GROUPS: 3, HistoryField.SEQUENCES: 6, HistoryField.TOKENS: 15, HistoryField.ASKED: 24,
        HistoryField.staleness(0): 2, HistoryField.staleness(2): 1,
    }  # fmt: skip
    assert (measures.staleness.count, measures.staleness.total) == (3, 2)


def test_however_stale_groups_are_the_history_has_few_names_for_it() -> None:
    measures = Measures()
    for newest in range(MOST_STALE, MOST_STALE + 500):
        measures.answered(result((0,)), asked=8, newest=newest)

    assert measures.stale == {MOST_STALE: 500}
    assert dict(measures.staleness.cumulative())[float(MOST_STALE)] == 1


def test_a_group_without_a_token_is_fresh() -> None:
    measures = Measures()
    measures.answered(result((3,), lengths=(0, 0)).model_copy(update={"version_spans": ((), ())}), asked=8, newest=7)
    assert measures.stale == {0: 1}


def test_errors_are_counted_by_their_code() -> None:
    measures = Measures()
    for code in (ErrorCode.TOO_LONG, ErrorCode.CANCELLED, ErrorCode.TOO_LONG):
        error = GroupError(batch_id="b", group=0, code=code, field="prompt", message="m", worker="w")
        measures.answered(error, asked=8, newest=0)

    assert sums(measures) == {"error:too_long": 2, "error:cancelled": 1}
    assert measures.groups == {"result": 0, "error": 3, "duplicate": 0, "fenced": 0, "cut": 0}


def test_published_groups_are_results_and_errors() -> None:
    measures = Measures()
    measures.groups.update({"result": 3, "error": 4, "duplicate": 10, "fenced": 100, "cut": 0})
    assert measures.published == 7
