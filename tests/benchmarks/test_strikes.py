"""A schedule of faults is read as it is printed, and a line that is none is refused by name."""

from __future__ import annotations

import pytest

from benchmarks.support.strikes import KINDS, BadScheduleError, Strike, read_schedule, schedule


def test_the_default_schedule_has_every_kind_of_fault_and_reads_back() -> None:
    usual = schedule(lease_s=4, workers=4)

    assert {one.kind for one in usual} == set(KINDS)
    assert read_schedule("\n".join(map(str, usual)), workers=4) == usual


def test_a_small_fleet_takes_the_faults_of_a_larger_one() -> None:
    assert {one.worker for one in schedule(lease_s=4, workers=1)} == {0}


def test_comments_and_empty_lines_are_no_faults() -> None:
    text = "# a quiet day\n\n0.5 redis for 2  # and back\n0.1 kill 1\n"

    assert read_schedule(text, workers=2) == [
        Strike(at=0.1, kind="kill", worker=1),
        Strike(at=0.5, kind="redis", lasts_s=2.0),
    ]


@pytest.mark.parametrize(
    "line",
    ["0.5", "0.5 kill", "2 kill 0", "0.5 burn 0", "0.5 kill 4", "0.5 freeze 0 for", "0.5 freeze 0 for -1", "x kill 0"],
)
def test_what_is_no_fault_is_refused_with_the_line(line: str) -> None:
    with pytest.raises(BadScheduleError, match=line.split(maxsplit=1)[0]):
        read_schedule(line, workers=4)
