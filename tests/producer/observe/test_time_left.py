"""How long a batch still takes, from when its groups were seen to end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rollstream.producer.observe.parts.time_left import Progress


def left_s(looks: Sequence[tuple[float, int]], groups: int) -> float | None:
    (began, before), *later = looks
    progress = Progress(now=began, done=before)
    for now, done in later:
        progress.note(now, done)
    return progress.left_s(*looks[-1], groups)


@pytest.mark.parametrize(
    ("looks", "groups", "seconds"),
    [
        pytest.param([(0, 0)], 10, None, id="the first look says nothing"),
        pytest.param([(0, 0), (5, 0)], 10, None, id="nor does one that saw no group end"),
        pytest.param([(0, 0), (1, 5)], 10, None, id="nor a short one"),
        pytest.param([(0, 0), (2, 4)], 10, 3.0, id="two a second"),
        pytest.param([(0, 50), (10, 60)], 100, 40.0, id="groups that ended before the first look do not count"),
        pytest.param([(0, 0), (10, 10), (20, 10)], 20, 20.0, id="it becomes longer while nothing ends"),
        pytest.param([(0, 0), (10, 10)], 10, 0.0, id="nothing is left"),
        pytest.param([(0, 0), (100, 1), (200, 2)], 4, 200.0, id="slow groups"),
        pytest.param([(50, 5), (40, 6), (42, 8)], 10, 2.0, id="the clock was set back"),
        pytest.param([(0, 9), (10, 0), (20, 5)], 10, 10.0, id="another batch of the same name"),
    ],
)
def test_the_speed_of_the_last_looks_tells_what_is_left(
    looks: Sequence[tuple[float, int]], groups: int, seconds: float | None
) -> None:
    assert left_s(looks, groups) == seconds


def test_the_last_minute_counts_where_many_groups_end() -> None:
    slow = [(float(second), second) for second in range(100)]
    fast = [(100.0 + second, 100 + 10 * second) for second in range(100)]

    assert left_s(slow + fast, 2090) == pytest.approx(100, rel=0.1)


def test_what_is_kept_does_not_grow() -> None:
    progress = Progress(now=0.0, done=0)
    for look in range(10_000):
        progress.note(look / 10, look)

    assert len(progress._seen) <= 62
