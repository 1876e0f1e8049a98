"""For how long a job may wait for its session's worker, and for which workers it is worth it."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream.schemas import Job
from rollstream.schemas.hashes.worker_report import DRAIN, ROOM_FIELDS
from rollstream.worker.conversations.affinity import is_leaving, left_s, most_s, takes_soon
from tests.schemas.wire.golden_messages import TODAY


def job(**changes: Any) -> Job:
    whole = TODAY["Job.v1.continue-of"].model_copy(update={"queue_deadline_s": None, "session_wait_s": 2.0, **changes})
    assert isinstance(whole, Job)
    return whole


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 2.0),
        ({"session": None}, 0.0),
        ({"session_wait_s": 0.0}, 0.0),
        ({"queue_deadline_s": 60.0}, 2.0),
        ({"queue_deadline_s": 12.0, "session_wait_s": 30.0}, 6.0),
        ({"queue_deadline_s": 3.0}, 0.0),
    ],
    ids=["as asked", "no session", "no wait", "far deadline", "half the deadline", "near deadline"],
)
def test_a_job_waits_as_long_as_it_was_told_and_never_into_its_deadline(changes: dict[str, Any], most: float) -> None:
    assert most_s(job(**changes)) == most


@pytest.mark.parametrize(("waited", "left"), [(0.0, 2.0), (1.5, 0.5), (2.0, 0.0), (99.0, 0.0), (None, 0.0)])
def test_what_a_job_has_waited_counts_and_an_unknown_age_is_no_wait(waited: float | None, left: float) -> None:
    assert left_s(job(), waited) == left


def said(**fields: str) -> list[bytes | None]:
    told = {
        "state": "serving",
        "paused_for": "",
        "running_sequences": "3",
        "places": "8",
        "waiting_groups": "0",
    } | fields
    return [told[name].encode() if name in told else None for name in ROOM_FIELDS]


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "draining"}, {"state": "starting"}, {"state": "paused"}, {"paused_for": "memory"},
        {DRAIN: "1"}, {"running_sequences": "8", "waiting_groups": "2"}, {"state": "\x1b[2J"},
    ],
)  # fmt: skip
def test_nobody_waits_for_a_worker_that_takes_no_job_soon(fields: dict[str, str]) -> None:
    assert not takes_soon(said(**fields))


@pytest.mark.parametrize(
    "fields", [{}, {"running_sequences": "8"}, {"running_sequences": "x", "waiting_groups": "y"}, {"places": ""}]
)
def test_a_serving_worker_is_worth_a_wait(fields: dict[str, str]) -> None:
    assert takes_soon(said(**fields))


@pytest.mark.parametrize(
    ("fields", "leaves"),
    [
        ({"state": "draining"}, True), ({DRAIN: "1"}, True), ({}, False), ({"paused_for": "memory"}, False),
        ({"state": "starting"}, False), ({"running_sequences": "8", "waiting_groups": "2"}, False),
    ],
)  # fmt: skip
def test_only_one_that_drains_or_is_gone_takes_no_job_any_more(fields: dict[str, str], leaves: bool) -> None:
    assert is_leaving(said(**fields)) == leaves
    assert is_leaving([None] * len(ROOM_FIELDS))


def test_a_worker_without_a_report_is_gone() -> None:
    assert not takes_soon([None] * len(ROOM_FIELDS))
    assert not takes_soon([*[None] * (len(ROOM_FIELDS) - 1), b"1"])
