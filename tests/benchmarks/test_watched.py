"""What it costs to be watched is told with how sure that is."""

from __future__ import annotations

import pytest

from benchmarks.engine.watched import interval


def test_the_interval_holds_the_mean_ratio_of_the_pairs_and_narrows_as_they_agree() -> None:
    base = [1.0, 2.0, 4.0, 8.0] * 5
    agreeing = [1.01 * run for run in base]
    differing = [run * (1.2 if number % 2 else 0.8) for number, run in enumerate(base)]

    assert interval(agreeing, base) == pytest.approx((1.01, 1.01, 1.01))
    mean, low, high = interval(differing, base)
    assert mean == pytest.approx(1.0)
    assert (low < 0.95, high > 1.05) == (True, True)
