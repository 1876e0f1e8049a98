"""Spans are vLLM's own where it reports them; else they follow from the clock, and say that they are a guess."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from itertools import groupby
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rollstream.worker.engines.vllm.version_spans import (
    Start,
    Swap,
    Versions,
    estimated_spans,
    reported_spans,
    shared_out,
)

SWAPS = [
    Swap(asked_at=10.0, paused_at=11.0, resuming_at=12.0, version=1),
    Swap(asked_at=20.0, paused_at=20.0, resuming_at=20.0, version=2),
]


def completion(length: int, *spans: tuple[str, int, int]) -> SimpleNamespace:
    reported = [SimpleNamespace(version=version, start=start, end=end) for version, start, end in spans]
    return SimpleNamespace(token_ids=[5] * length, weight_versions=reported, finish_reason="length", index=0)


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
        (0.0, 11.5, ((0, 12),), True),  # ended before the engine was asked to go on: none of it is of the new weights
        (0.0, 12.0, ((0, 12),), True),
        (9.9, 12.1, ((0, 6), (1, 6)), False),
        (10.5, 11.0, ((0, 12),), True),
        (10.5, 15.0, ((1, 12),), False),  # began while the engine was pausing: it may have had a step or two
        (11.0, 15.0, ((1, 12),), True),  # waited for the pause to end
        (13.0, 15.0, ((1, 12),), True),
        (8.0, 16.0, ((0, 4), (1, 8)), False),
        (9.0, 23.0, ((0, 1), (1, 8), (2, 3)), False),
        (11.0, 24.0, ((1, 8), (2, 4)), False),
        (21.0, 22.0, ((2, 12),), True),
    ],
)
def test_without_a_report_the_time_that_each_version_served_shares_out_the_tokens(
    start: float, until: float, spans: tuple[tuple[int, int], ...], exact: bool
) -> None:
    version = 0 if start < 12 else 1 if start < 20 else 2

    assert estimated_spans(12, Start(at=start, version=version, aborts=0), until, SWAPS) == (spans, exact)


@pytest.mark.parametrize(
    ("counts", "spans"),
    [
        ([{}, {}], ((0, 1), (1, 8), (2, 3))),
        ([{("r", 1): 5}, {("r", 1): 7}], ((0, 5), (1, 4), (2, 3))),
        ([{("r", 1): 5}, {("r", 1): 11}], ((0, 5), (1, 6), (2, 1))),
        ([{}, {("r", 1): 12}], ((0, 1), (1, 11))),
        ([{("r", 1): 10}, {("r", 1): 10}], ((0, 10), (2, 2))),
        ([{("r", 1): 99}, {}], ((0, 12),)),  # a stop string cut what had arrived
        ([{("r", 0): 5, ("other", 1): 6}, {}], ((0, 1), (1, 8), (2, 3))),
    ],
)
def test_what_had_arrived_before_a_swap_is_of_no_later_version(
    counts: list[dict[tuple[str, int], int]], spans: tuple[tuple[int, int], ...]
) -> None:
    swaps = [replace(swap, arrived=arrived) for swap, arrived in zip(SWAPS, counts, strict=True)]

    found = estimated_spans(12, Start(at=9.0, version=0, aborts=0, request_id="r"), 23.0, swaps, 1)

    assert found == (spans, False)


def test_an_answer_that_comes_before_the_engine_is_known_to_go_on_is_no_exact_one_of_the_old_version() -> None:
    versions = Versions()
    start = versions.start(5.0)
    versions.swapped(
        Swap(asked_at=10.0, paused_at=11.0, resuming_at=12.0, version=1)
    )  # and then the engine is asked to go on

    assert versions.spans(SimpleNamespace(token_ids=[1] * 4, finish_reason="length", index=0), start, 12.001) == (
        ((0, 4),),
        False,
    )


ms = st.integers(0, 40)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Swap], list[tuple[int, int]], int, list[int]]:
    """Swaps as the worker sees them, when the engine really paused and went on, and one completion.

    Gives the swaps, (paused, went on) of each, when the completion was handed over, and when its tokens were sampled;
    it came with or after the last.
    """
    now, swaps, pauses = 0, [], []
    for version in range(1, draw(st.integers(0, 4)) + 1):
        asked = now + draw(ms)
        stopped = asked + draw(ms)
        paused = stopped + draw(ms)
        resuming = paused + draw(ms)
        now = resuming + draw(ms)
        swaps.append(Swap(asked_at=asked, paused_at=paused, resuming_at=resuming, version=version))
        pauses.append((stopped, now))
    start = draw(st.integers(0, now + 40))
    steps = [at for at in range(start, now + 120) if not any(stopped <= at < on for stopped, on in pauses)]
    first = draw(st.integers(0, 20))
    tokens = steps[first : first + draw(st.integers(1, 40)) * 3 : draw(st.integers(1, 3))]
    return swaps, pauses, start, tokens


@given(histories(), ms)
@example(([Swap(asked_at=0, paused_at=9, resuming_at=30, version=1)], [(5, 31)], 2, [3, 4, 31, 32]), 0)
def test_what_is_called_exact_is_what_was_sampled_and_every_estimate_adds_up(
    history: tuple[list[Swap], list[tuple[int, int]], int, list[int]], late: int
) -> None:
    swaps, pauses, start, sampled = history
    until = sampled[-1] + 1 + late
    known = sum(swap.resuming_at <= start for swap in swaps)
    seen = [swap for swap in swaps if swap.resuming_at <= until]

    spans, exact = estimated_spans(len(sampled), Start(at=start, version=known, aborts=0), until, seen)

    went_on = [on for _, on in pauses]
    truth = tuple((version, len(list(run))) for version, run in groupby(bisect_right(went_on, at) for at in sampled))
    assert not exact or spans == truth
    assert sum(tokens for _, tokens in spans) == len(sampled)
    assert all(tokens > 0 for _, tokens in spans)
    assert [version for version, _ in spans] == sorted({version for version, _ in spans})
    untouched = all(until <= swap.asked_at or start >= swap.paused_at for swap in swaps)
    assert exact or not untouched


@pytest.mark.parametrize(
    ("length", "served", "expected"),
    [
        (0, [(0, 1.0)], ()),
        (7, [(3, 0.0)], ((3, 7),)),
        (1, [(0, 1.0), (1, 1.0), (2, 1.0)], ((1, 1),)),
        (3, [(0, 1.0), (1, 1.0), (2, 1.0)], ((0, 1), (1, 1), (2, 1))),
        (10, [(0, 0.0), (1, 0.1), (2, 0.2)], ((1, 3), (2, 7))),
        (9, [(5, 1.0), (5, 1.0), (2, 1.0), (5, 0.0)], ((5, 6), (2, 3))),
    ],
)
def test_tokens_are_shared_out_in_proportion(
    length: int, served: list[tuple[int, float]], expected: tuple[tuple[int, int], ...]
) -> None:
    assert shared_out(length, served) == expected


def test_a_report_is_exact_and_a_guess_is_not() -> None:
    versions = Versions(now=2)
    versions.swaps.extend(SWAPS)
    start = Start(at=8.0, version=0, aborts=0)

    assert versions.spans(completion(4, ("0", 0, 1), ("1", 1, 4)), start, 16.0) == (((0, 1), (1, 3)), True)
    assert versions.spans(SimpleNamespace(token_ids=[1] * 12, finish_reason="length", index=0), start, 16.0) == (
        ((0, 4), (1, 8)),
        False,
    )


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


@pytest.mark.parametrize(("at", "first"), [(10.5, 0), (11.0, 1), (11.5, 1), (15.0, 1), (25.0, 2)])
def test_what_comes_during_a_swap_is_sampled_by_the_version_that_it_brings(at: float, first: int) -> None:
    versions = Versions()
    for swap in SWAPS:
        versions.swapped(swap)

    assert versions.first(Start(at=at, version=0, aborts=0)) == first


def test_a_completion_that_a_swap_aborted_has_no_token_of_what_came_after() -> None:
    versions = Versions()
    start = versions.start(5.0)
    versions.swapped(Swap(asked_at=10.0, paused_at=11.0, resuming_at=12.0, version=1, aborted=True))
    aborted = SimpleNamespace(token_ids=[5] * 7, finish_reason="abort", index=0)
    ended = SimpleNamespace(token_ids=[5] * 7, finish_reason="length", index=0)

    assert versions.spans(aborted, start, 90.0) == (((0, 7),), True)
    assert versions.spans(ended, start, 90.0)[1] is False
