"""A reading as samples: each name with its labels, and what is not known left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rollstream.producer.observe.fleet import Fleet, FleetVersion, FleetWorker, Presence
from rollstream.producer.observe.queue_metrics import samples
from rollstream.producer.operations.queue_state import QueueSeen
from rollstream.producer.policies.parked import Parked
from rollstream.schemas.hashes.history import Rate
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.metrics import Metric, QueueMetric, metrics_of
from tests.support.watching.fleets import backlog_lasting

PARKED = Parked(version=3, jobs=2, oldest_s=5.0, oldest_batch="b")


def queue(**changes: Any) -> QueueSeen:
    fields = {"entries": 9, "waiting": 4, "pending": 3, "oldest_waiting_s": 7.5, "dead_letters": 1, "parked": (PARKED,)}
    return QueueSeen(partition=0, **{**fields, **changes})


def worker(presence: Presence = Presence.LIVE, **report: Any) -> FleetWorker:
    told = {"state": "serving", "policy_version": 2, **report}
    return FleetWorker(consumer="w", presence=presence, seen_s_ago=0.1, report=WorkerReport(**told))


def version(number: int, announced_s_ago: float = 30.0) -> FleetVersion:
    return FleetVersion(
        version=number, source="checkpoint", location="s", announced_s_ago=announced_s_ago, served_by=(), refused_by=()
    )


def fleet(**changes: Any) -> Fleet:
    fields: dict[str, Any] = {
        "policy": "p",
        "read_at": 1.7e9,
        "paused": False,
        "paused_s_ago": None,
        "queues": (queue(),),
        "open_groups": 5,
        "open_tokens": 50,
        "open_tokens_by_partition": (50,),
        "backlog": backlog_lasting(12.0),
        "rate": Rate(),
        "minutes": (),
        "workers": (),
        "versions": (),
        "batches": (),
        "num_batches": 0,
        "letters": (),
        "num_letters": 1,
        "redis_memory": 1000,
        "redis_memory_limit": 0,
        "commands": 11,
        "took_s": 0.01,
    }
    return Fleet(**{**fields, **changes})


def told(metric: Metric, reading: Fleet | None) -> dict[tuple[str, ...], float]:
    return {labels: value for one, labels, value in samples(reading) if one == metric}


def test_a_reading_tells_every_metric_of_the_table() -> None:
    assert {metric for metric, _, _ in samples(fleet())} == set(metrics_of(QueueMetric))
    assert all(len(labels) == len(metric.labels) for metric, labels, _ in samples(fleet()))


def test_without_a_reading_only_that_is_told() -> None:
    assert list(samples(None)) == [(QueueMetric.UP, (), 0.0)]


def test_jobs_that_are_parked_are_not_counted_as_taken_too() -> None:
    assert told(QueueMetric.JOBS, fleet()) == {
        ("0", "default", "waiting"): 4,
        ("0", "default", "pending"): 1,
        ("0", "default", "parked"): 2,
        ("0", "default", "session"): 0,
    }


@pytest.mark.parametrize(
    ("metric", "changes"),
    [
        (QueueMetric.BACKLOG, {"backlog": None}),
        (QueueMetric.REDIS_MEMORY, {"redis_memory": None}),
        (QueueMetric.REDIS_MEMORY_LIMIT, {"redis_memory_limit": None}),
    ],
)
def test_what_is_not_known_has_no_sample(metric: Metric, changes: dict[str, Any]) -> None:
    assert told(metric, fleet()) != {}
    assert told(metric, fleet(**changes)) == {}


def test_no_job_that_waits_is_an_age_of_0() -> None:
    assert told(QueueMetric.OLDEST, fleet(queues=(queue(oldest_waiting_s=None),))) == {("0",): 0.0}


def test_workers_are_counted_by_state_and_those_that_are_late_as_late() -> None:
    workers = (worker(), worker(), worker(Presence.LATE), worker(Presence.GONE), worker(state="<b>"))

    counts = told(QueueMetric.WORKERS, fleet(workers=workers))

    assert {state: count for (state,), count in counts.items() if count} == {"serving": 2, "late": 1, "other": 1}
    assert {state for (state,) in counts} == {"starting", "serving", "paused", "draining", "late", "other"}


@pytest.mark.parametrize(
    ("versions", "workers", "behind", "refusing", "seconds"),
    [
        ((), [worker(policy_version=0)], 0, 0, 0.0),
        ((version(2),), [worker()], 0, 0, 0.0),
        ((version(3), version(2)), [worker(), worker(policy_version=3)], 1, 0, 30.0),
        ((version(3),), [worker(newest_version=3, policy_error="no")], 1, 1, 30.0),
        ((version(4),), [worker(Presence.LATE, newest_version=3, policy_error="no")], 1, 1, 30.0),
        ((), [worker(Presence.LATE, newest_version=3, policy_error="no")], 0, 1, 0.0),
        ((version(3),), [worker(Presence.GONE, newest_version=3, policy_error="no")], 0, 0, 0.0),
        ((version(3),), [worker(state="starting", policy_version=None)], 0, 0, 0.0),
        ((version(3),), [worker(Presence.GONE)], 0, 0, 0.0),
        ((version(3),), [worker(Presence.LATE)], 1, 0, 30.0),
    ],
)
def test_a_version_has_converged_when_all_that_live_serve_it(
    versions: tuple[FleetVersion, ...], workers: Sequence[FleetWorker], behind: int, refusing: int, seconds: float
) -> None:
    reading = fleet(versions=versions, workers=tuple(workers))

    assert told(QueueMetric.WORKERS_BEHIND, reading) == {(): behind}
    assert told(QueueMetric.WORKERS_REFUSING, reading) == {(): refusing}
    assert told(QueueMetric.CONVERGENCE, reading) == {(): seconds}
    assert told(QueueMetric.ANNOUNCED_VERSION, reading) == {(): max((one.version for one in versions), default=0)}
