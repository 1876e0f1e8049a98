"""Histograms and tokens a second, counted without any library."""

from __future__ import annotations

import pytest

from rollstream.worker.measure.histogram import Histogram
from rollstream.worker.measure.throughput import WINDOW_S, Throughput

INFINITY = float("inf")


@pytest.mark.parametrize(
    ("values", "up_to"),
    [
        ((), (0, 0, 0)),
        ((0.5,), (1, 1, 1)),
        ((1.0,), (1, 1, 1)),
        ((1.5, 2.0), (0, 2, 2)),
        ((2.1, INFINITY), (0, 0, 2)),
        ((-1.0, 1.0, 1.1, 99.0), (2, 3, 4)),
    ],
)
def test_a_value_counts_in_its_bucket_and_in_all_above(values: tuple[float, ...], up_to: tuple[int, ...]) -> None:
    histogram = Histogram((1.0, 2.0))
    for value in values:
        histogram.add(value)

    assert list(histogram.cumulative()) == list(zip((1.0, 2.0, INFINITY), up_to, strict=True))
    assert (histogram.count, histogram.total) == (len(values), sum(values))


@pytest.mark.parametrize(
    ("answered", "now", "tokens"),
    [
        ([], 100.0, 0),
        ([(100.2, 60)], 100.9, 0),  # its second is not over
        ([(100.2, 60)], 101.0, 60),
        ([(100.2, 60), (100.9, 1), (115.0, 30)], 120.0, 91),
        ([(100.2, 60), (115.0, 30)], 100.0 + WINDOW_S + 0.9, 90),
        ([(100.2, 60), (115.0, 30)], 101.0 + WINDOW_S, 30),
        ([(100.2, 60), (115.0, 30)], 1000.0, 0),
    ],
)
def test_tokens_of_the_last_half_minute_make_the_rate(
    answered: list[tuple[float, int]], now: float, tokens: int
) -> None:
    throughput = Throughput()
    for at, number in answered:
        throughput.add(at, number)

    assert [throughput.per_s(now), throughput.per_s(now)] == [tokens / WINDOW_S] * 2


def test_a_worker_that_runs_for_long_remembers_one_window() -> None:
    throughput = Throughput()
    for second in range(10_000):
        throughput.add(second, 5)
        throughput.per_s(second + 0.5)

    assert len(throughput._tokens) <= WINDOW_S + 1
    assert throughput.per_s(10_000) == 5.0
