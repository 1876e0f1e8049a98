"""A histogram of our own, so that a worker without `--metrics-port` needs nothing of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate


class Histogram:
    """Counts values by upper bounds, for good. One thread writes; others may read at any time.

    A reader may find a value in the counts that is not in `total` yet.
    """

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` grow; a value that equals a bound is within it, as Prometheus has it."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """The sum of all values."""

    def __repr__(self) -> str:
        return f"<Histogram {self.count} values, sum {self.total:g}>"

    @property
    def count(self) -> int:
        """How many values were added."""
        return sum(self._counts)

    def add(self, value: float) -> None:
        """Count `value`."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bound, the last of them infinity, with the number of values up to it."""
        return zip((*self._bounds, float("inf")), accumulate(tuple(self._counts)), strict=True)
