"""Numbers as people read them, and charts that claim nothing that is not there."""

from __future__ import annotations

import pytest

from rollstream.producer.cli.views.charts import about, amount, bar, histogram, percent, sparkline
from tests.support.watching.fitting import shown


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (None, "-"), (0, "0"), (0.4, "0"), (950, "950"), (9871.4, "9,871"), (9_999.7, "10.0k"), (12_345, "12.3k"),
        (123_456, "123k"), (999_960, "1.00M"), (1_234_567, "1.23M"), (2.5e12, "2.50T"), (1e18, "1.0e+18"),
    ],
)  # fmt: skip
def test_a_count_has_few_places(number: float | None, told: str) -> None:
    assert amount(number) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (45.4, "45 s"), (89, "89 s"), (91, "2 min"), (5400, "2 h"), (5000, "83 min"), (400_000, "5 d")],
)
def test_an_estimate_has_one_unit(seconds: float, told: str) -> None:
    assert about(seconds) == told


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [(0, 9, "0 %"), (1, 1000, "<1 %"), (999, 1000, "99 %"), (1000, 1000, "100 %"), (1, 3, "33 %"), (0, 0, "-")],
)
def test_only_all_is_a_hundred_percent_and_only_nothing_is_zero(part: int, whole: int, told: str) -> None:
    assert percent(part, whole) == told


@pytest.mark.parametrize(
    ("part", "whole", "drawn"),
    [(0, 8, "░░░░"), (8, 8, "████"), (9, 8, "████"), (-1, 8, "░░░░"), (3, 8, "█▌░░"), (0, 0, "░░░░")],
)
def test_a_bar_is_filled_to_its_share(part: int, whole: int, drawn: str) -> None:
    assert bar(part, whole, 4).plain == drawn


@pytest.mark.parametrize(
    ("values", "places", "drawn"),
    [
        ([0, 1, 7, 8], 4, " ▂██"),
        ([5, 5], 9, "██"),
        ([0, 0, 0], 3, "   "),
        ([8, 8, 0, 0, 4, 4], 3, "█ ▅"),
        ([9, 1, 1, 1, 1], 3, "█▁▁"),
        ([], 3, ""),
        ([1, 2], 0, ""),
    ],
)
def test_a_sparkline_has_the_newest_value_at_the_right(values: list[float], places: int, drawn: str) -> None:
    assert sparkline(values, places) == drawn


def test_a_histogram_names_each_share() -> None:
    assert shown(histogram({"0": 60, "1": 30, "2 or more": 10}, 40)).splitlines() == [
        "        0  ██████████▊░░░░░░░  60 %  60",
        "        1  █████▍░░░░░░░░░░░░  30 %  30",
        "2 or more  █▊░░░░░░░░░░░░░░░░  10 %  10",
    ]
    assert histogram({}, 40) == histogram({"0": 0}, 40) == []
