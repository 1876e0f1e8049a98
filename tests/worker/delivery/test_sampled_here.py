"""A worker answers for the tokens that it sampled; those that it found in Redis were asked about when they went in."""

from __future__ import annotations

import pytest

from rollstream.schemas.wire.fields import VersionSpan
from rollstream.worker.delivery.sampled_here import after


@pytest.mark.parametrize(
    ("spans", "brought", "expected"),
    [
        ([], 0, []),
        ([(3, 5)], 0, [(3, 5)]),
        ([(3, 5)], 2, [(3, 3)]),
        ([(3, 5)], 5, []),
        ([(3, 5), (4, 2)], 5, [(4, 2)]),
        ([(3, 5), (4, 2)], 6, [(4, 1)]),
        ([(3, 5), (4, 2), (6, 1)], 7, [(6, 1)]),
        ([(3, 5)], 9, []),
    ],
)
def test_what_others_sampled_is_left_out(spans: list[VersionSpan], brought: int, expected: list[VersionSpan]) -> None:
    assert after(spans, brought) == expected
