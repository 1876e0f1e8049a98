"""Spans are vLLM's own where it reports them; else they follow from the clock, and say that they are a guess."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from worker.vllm_versions import Start, Swap, Versions, estimated_spans, merged, reported_spans

SWAPS = [Swap(10.0, 12.0, 1), Swap(20.0, 20.0, 2)]


def completion(length: int, *spans: tuple[str, int, int]) -> SimpleNamespace:
    reported = [SimpleNamespace(version=version, start=start, end=end) for version, start, end in spans]
    return SimpleNamespace(token_ids=[5] * length, weight_versions=reported)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (completion(5, ("0", 0, 5)), ((0, 5),)),
        (completion(5, ("0", 0, 2), ("7", 2, 5)), ((0, 2), (7, 3))),
        (completion(2, ("0", 0, 2), ("7", 2, 2)), ((0, 2),)),
        (completion(5, ("0", 0, 2)), None),
        (completion(5, ("default", 0, 5)), None),
        (SimpleNamespace(token_ids=[1], weight_versions=None), None),
        (SimpleNamespace(token_ids=[1]), None),
    ],
)
def test_vllms_spans_are_taken_where_they_cover_the_completion(
    reported: SimpleNamespace, expected: tuple[tuple[int, int], ...] | None
) -> None:
    assert reported_spans(reported, len(reported.token_ids)) == expected


@pytest.mark.parametrize(
    ("start", "until", "spans", "exact"),
    [
        (0.0, 5.0, ((0, 12),), True),
        (0.0, 11.0, ((0, 12),), True),  # ended while the engine was pausing: none of it is of the new weights
        (11.0, 15.0, ((1, 12),), True),  # waited for the pause to end
        (13.0, 15.0, ((1, 12),), True),
        (8.0, 16.0, ((0, 4), (1, 8)), False),
        (9.0, 23.0, ((0, 1), (1, 8), (2, 3)), False),
        (11.0, 24.0, ((1, 8), (2, 4)), False),
    ],
)
def test_without_a_report_the_time_that_each_version_served_shares_out_the_tokens(
    start: float, until: float, spans: tuple[tuple[int, int], ...], exact: bool
) -> None:
    version = 0 if start < 12 else 1

    assert estimated_spans(12, Start(start, version, 0), until, SWAPS) == (spans, exact)


def test_going_back_to_the_same_version_is_no_doubt() -> None:
    assert estimated_spans(8, Start(0.0, 3, 0), 9.0, [Swap(4.0, 5.0, 3)]) == (((3, 8),), True)


def test_every_estimate_adds_up() -> None:
    for length in range(60):
        spans, _ = estimated_spans(length, Start(0.0, 0, 0), 31.0, SWAPS)
        assert sum(tokens for _, tokens in spans) == length
        assert all(tokens > 0 for _, tokens in spans)


def test_neighbours_of_one_version_are_one_span() -> None:
    assert merged([(0, 1), (0, 2), (1, 0), (0, 1), (2, 4)]) == ((0, 4), (2, 4))


def test_a_report_is_exact_and_a_guess_is_not() -> None:
    versions = Versions(now=2)
    versions.swaps.extend(SWAPS)
    start = Start(8.0, 0, 0)

    assert versions.spans(completion(4, ("0", 0, 1), ("1", 1, 4)), start, 16.0) == (((0, 1), (1, 3)), True)
    assert versions.spans(SimpleNamespace(token_ids=[1] * 12), start, 16.0) == (((0, 4), (1, 8)), False)


def test_what_started_before_or_during_an_aborting_pause_was_aborted_by_it() -> None:
    versions = Versions()
    before = versions.start(1.0)
    versions.aborting = True
    during = versions.start(2.0)
    assert versions.aborted(during)

    versions.aborts, versions.aborting = 1, False

    assert versions.aborted(before)
    assert versions.aborted(during)
    assert not versions.aborted(versions.start(3.0))
