"""How long a version took to reach all workers is told only where it was seen."""

from __future__ import annotations

from rollstream.producer.observe.fleet import FleetVersion, FleetWorker, Presence
from rollstream.producer.observe.parts.reached import Reached
from rollstream.schemas.hashes.worker_report import WorkerReport


def announced(*ages: float) -> list[FleetVersion]:
    """Versions 1, 2 and so on, announced so many seconds ago."""
    return [
        FleetVersion(version=n, source="checkpoint", location="", announced_s_ago=age, served_by=(), refused_by=())
        for n, age in enumerate(ages, start=1)
    ]


def worker(version: int | None, *, presence: Presence = Presence.LIVE, state: str = "serving") -> FleetWorker:
    report = WorkerReport(state=state, policy_version=version)
    return FleetWorker(consumer="w", presence=presence, seen_s_ago=0.1, report=report)


def times(*readings: tuple[float, list[FleetVersion], list[FleetWorker]]) -> list[float | None]:
    """What the last of these readings says."""
    reached = Reached()
    for now, versions, workers in readings:
        seen = reached.noted(versions, workers, now)
    return [one.reached_all_s for one in seen]


def test_the_time_is_that_of_the_reading_in_which_the_last_worker_served_it() -> None:
    assert times(
        (10, announced(2.0), [worker(1), worker(0)]),
        (11, announced(3.0), [worker(1), worker(1)]),
        (12, announced(4.0), [worker(1), worker(1)]),
    ) == [3.0]


def test_a_newer_version_counts_and_an_older_one_keeps_its_time() -> None:
    assert times(
        (10, announced(9.0, 1.0), [worker(0)]),
        (11, announced(10.0, 2.0), [worker(2)]),
    ) == [10.0, 2.0]
    assert times(
        (10, announced(9.0), [worker(0)]),
        (11, announced(10.0), [worker(1)]),
        (12, announced(11.0, 0.5), [worker(1)]),
    ) == [10.0, None]


def test_what_had_happened_before_the_first_reading_is_not_known() -> None:
    assert times((10, announced(90.0), [worker(1)]), (11, announced(91.0), [worker(1)])) == [None]


def test_a_worker_that_comes_later_changes_nothing() -> None:
    assert times(
        (10, announced(90.0), [worker(1)]),
        (11, announced(91.0), [worker(1), worker(0)]),
        (12, announced(92.0), [worker(1), worker(1)]),
    ) == [None]


def test_what_happened_in_a_long_time_without_readings_is_not_known() -> None:
    assert times((10, announced(2.0), [worker(0)]), (99, announced(91.0), [worker(1)])) == [None]


def test_a_worker_that_is_gone_or_starts_holds_nothing_up() -> None:
    others = [worker(0, presence=Presence.GONE), worker(None, state="starting")]
    assert times((10, announced(2.0), [worker(0)]), (11, announced(3.0), [worker(1), *others])) == [3.0]


def test_no_worker_and_a_worker_that_does_not_say_its_version_reach_nothing() -> None:
    assert times((10, announced(2.0), []), (11, announced(3.0), [])) == [None]
    assert times((10, announced(2.0), [worker(0)]), (11, announced(3.0), [worker(1), worker(None)])) == [None]
