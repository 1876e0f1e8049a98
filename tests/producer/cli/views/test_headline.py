"""The first line says in words how the fleet is, and how much that matters."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream.producer.cli.views.headline import Level, headline, listed, notes
from rollstream.producer.observe.fleet import Presence
from tests.support.watching.fleets import backlog_lasting, batch_of, fleet_of, queue_of, worker_of

GOOD, CALM, WARN, BAD = Level.GOOD, Level.CALM, Level.WARN, Level.BAD
WAITING = (queue_of(0, waiting=11, pending=4, oldest_waiting_s=34.0), queue_of(1, waiting=1, oldest_waiting_s=200.0))
WORKER, LATE, GONE = worker_of(), worker_of("b", Presence.LATE), worker_of("c", Presence.GONE)
STARTING, PAUSED = worker_of("s", state="starting", policy_version=None), worker_of("p", state="paused")


@pytest.mark.parametrize(
    ("changes", "level", "told"),
    [
        ({}, CALM, "Nothing here yet: no worker, and no batch was submitted."),
        ({"num_batches": 3}, CALM, "No worker, and no job waits."),
        ({"queues": WAITING}, BAD, "No worker: 12 jobs wait, the oldest for 3 min 20 s, 4 were taken by workers"),
        ({"queues": WAITING, "workers": (GONE,)}, BAD, "No worker: 12 jobs wait"),
        ({"workers": (WORKER,)}, GOOD, "1 worker serves version 7. There is nothing to do."),
        (
            {"workers": (WORKER, worker_of("d")), "queues": WAITING, "backlog": backlog_lasting(187.0)},
            GOOD,
            "2 workers serve version 7, 6,912 tokens/s, 12 jobs wait, about 3 min of work.",
        ),
        ({"workers": (WORKER, LATE)}, WARN, "1 of 2 workers serves version 7. There is nothing to do."),
        ({"workers": (WORKER, GONE)}, WARN, "1 of 2 workers serves version 7."),
        ({"workers": (WORKER, worker_of("d", policy_version=6))}, GOOD, "2 workers serve versions 7 and 6."),
        ({"workers": (worker_of("d", policy_version=0),)}, GOOD, "1 worker serves the model that they booted with."),
        ({"workers": (worker_of("d", policy_version=None),)}, GOOD, "1 worker serves an unknown version."),
        ({"workers": (STARTING,), "queues": WAITING}, CALM, "No worker takes jobs: 1 starts. 12 jobs wait."),
        ({"workers": (PAUSED, LATE)}, BAD, "No worker takes jobs: 1 is late and 1 is paused. No job waits."),
        ({"workers": (worker_of(state="[red]"),)}, BAD, "No worker takes jobs: 1 says nothing. No job waits."),
        (
            {"paused": True, "paused_s_ago": 90.0, "workers": (WORKER,), "queues": WAITING},
            WARN,
            "Paused by an operator since 1 min 30 s: 12 jobs wait, 1 worker stands by.",
        ),
        ({"paused": True}, WARN, "Paused by an operator: no job waits, and there is no worker."),
        ({"queues": (queue_of(waiting=None),)}, BAD, "No worker: an unknown number of jobs waits."),
        ({"queues": (queue_of(pending=2),), "workers": (WORKER,)}, GOOD, "version 7, 3,456 tokens/s, 2 jobs run"),
    ],
)  # fmt: skip
def test_the_state_of_the_fleet_in_words(changes: dict[str, Any], level: Level, told: str) -> None:
    found, text = headline(fleet_of(**changes))
    assert told in text
    assert found is level


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"batches": (batch_of(),), "workers": (WORKER, LATE)}, []),
        ({"redis_memory": 950, "redis_memory_limit": 1000}, ["Redis has used 95 % of its memory"]),
        ({"redis_memory": 700, "redis_memory_limit": 1000}, []),
        ({"redis_memory": 950, "redis_memory_limit": 0}, []),
        ({"queues": (queue_of(ids_ahead_s=60.0),)}, ["clock was set back by 1 min 0 s"]),
        (
            {"workers": tuple(worker_of(n, newest_version=8, policy_error="half-written") for n in "abcd")},
            ["Version 8 is refused by a, b and 2 more: half-written"],
        ),
        (
            {"workers": (worker_of("a", Presence.LATE, newest_version=None, policy_error="x"),)},
            ["Version ? is refused by a: x"],
        ),
        ({"workers": (worker_of("a", Presence.GONE, newest_version=8, policy_error="x"),)}, []),
        ({"problems": ("batches: no permission", "other")}, ["Could not be read: batches: no permission, and 1 more"]),
    ],
)
def test_notes_tell_what_no_table_shows(changes: dict[str, Any], told: list[str]) -> None:
    found = [text for _, text in notes(fleet_of(**changes))]
    assert len(found) == len(told)
    assert all(part in text for part, text in zip(told, found, strict=True))


def test_a_list_of_names_ends_with_how_many_more() -> None:
    assert [listed(list("abcd")[:n]) for n in (1, 2, 3, 4)] == ["a", "a and b", "a, b and c", "a, b and 2 more"]
