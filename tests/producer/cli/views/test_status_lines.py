"""`rollstream status` counts workers by whether their beats come, and names those that refuse a version."""

from __future__ import annotations

import pytest

from rollstream.producer.cli.views.status import status_lines
from rollstream.producer.observe.fleet import FleetWorker, Presence
from rollstream.producer.operations.queue_state import QueueState
from tests.support.watching.fleets import worker_of

LIVE, LATE, GONE = Presence
REFUSED = {"newest_version": 8, "policy_error": "half-written"}
NOTHING = QueueState(policy="p", paused=False, paused_s_ago=None, queues=[], workers=[])


def shown(*workers: FleetWorker) -> str:
    return "\n".join(line.plain for line in status_lines(NOTHING, workers, 200))


@pytest.mark.parametrize(
    ("presences", "told"),
    [
        ([], "0 live workers"),
        ([LIVE, LIVE], "2 live workers (seqs"),
        ([LIVE, LATE, GONE, LIVE, LATE], "2 live workers, 2 late, 1 gone (seqs"),
        ([LATE], "0 live workers, 1 late (seqs"),
        ([LIVE, GONE], "1 live workers, 1 gone (seqs"),
    ],
)
def test_workers_are_counted_by_whether_their_beats_come(presences: list[Presence], told: str) -> None:
    assert told in shown(*(worker_of(f"w{n}", presence) for n, presence in enumerate(presences)))


def test_a_late_worker_refuses_still_and_one_that_is_gone_does_not() -> None:
    text = shown(*(worker_of(f"w-{presence}", presence, **REFUSED) for presence in Presence))
    assert "version 8 refused by w-live, w-late: half-written" in text
    assert text.count("7 (8 refused)") == 2


def test_a_worker_shows_what_it_has_prepared_and_what_it_cannot_prepare() -> None:
    newest = {"policy_version": 8, "newest_version": 8, "announced_version": 9}
    text = shown(
        worker_of("a", LIVE, **newest, prepared_version=9),
        worker_of("b", LIVE, **newest, prepared_version=8, policy_error="version 9, not active yet: half-written"),
        worker_of("c", LIVE, **newest, prepared_version=8),
    )
    assert text.count("8 (9 prepared)") == 1
    assert text.count("8 (9 refused)") == 1
    assert "version 9 refused by b: version 9, not active yet: half-written" in text
