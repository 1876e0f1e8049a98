"""What a batch waits for is told from what Redis tells, the cause before its effects."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream.producer.batches.waited_for import BatchFacts, Reporting, waiting_for
from rollstream.producer.policies.unserved import unserved
from rollstream.producer.policies.wait_for_version import Serving
from rollstream.schemas.parked import ParkedFor

A, B = Reporting(name="a", partitions=2), Reporting(name="b", partitions=2)


def facts(**changes: Any) -> BatchFacts:
    told: dict[str, Any] = {"policy": "p", "partitions": 2, "partition": 1, "workers": [A], "jobs": 4, "waiting": 4}
    return BatchFacts(**{**told, **changes})


CASES: dict[str, tuple[BatchFacts, str]] = {
    "nobody": (
        facts(workers=[], paused=True, waiting=4),
        "no worker serves policy 'p': start one with `rollstream-worker --policy p`",
    ),
    "another name": (
        facts(workers=[], elsewhere=["math", "q"]),
        "no worker serves policy 'p': the live ones serve 'math', 'q'; is the name right? Else start one with "
        "`rollstream-worker --policy p`",
    ),
    "other partitions": (
        facts(workers=[Reporting(name="a", partitions=1)]),
        "no worker reads partition 1, where this batch is: this client has partitions=2, worker a has --partitions 1; "
        "give all of them the same number",
    ),
    "a worker that does not say how many partitions it reads": (
        facts(workers=[Reporting(name="a", partitions=1), Reporting(name="b")]),
        "4 of its 4 jobs wait until a worker has room; live: a, b",
    ),
    "paused": (
        facts(paused=True),
        "the queue is paused by an operator, 4 of its 4 jobs wait: `rollstream resume --policy p` lets workers go on",
    ),
    "paused when all was taken": (
        facts(paused=True, waiting=0, held={"a": 4}),
        "4 of its 4 jobs run: 4 in worker a",
    ),
    "a version that nobody announced": (
        facts(waiting=0, held={ParkedFor(9).consumer: 4}, newest=4),
        "4 of its 4 jobs wait for policy version 9, which nobody has published: the newest is 4",
    ),
    "no version at all": (
        facts(waiting=0, held={ParkedFor(9).consumer: 1, "a": 3}),
        "1 of its 4 jobs waits for policy version 9, which nobody has published: nothing was published",
    ),
    "a version that a worker refused": (
        facts(
            waiting=0,
            held={ParkedFor(9).consumer: 4},
            newest=9,
            workers=[Reporting(name="a", version=8, newest=9, problem="it is half-written"), B],
        ),
        "4 of its 4 jobs wait for policy version 9; worker a refused 9: it is half-written",
    ),
    "a version that nobody activated": (
        facts(waiting=0, held={ParkedFor(9).consumer: 4}, newest=9, workers=[Reporting(name="a", version=8, newest=8)]),
        "4 of its 4 jobs wait for policy version 9, which is announced and not active: client.activate(9), if nobody "
        "else does",
    ),
    "a version that is on its way": (
        facts(waiting=0, held={ParkedFor(9).consumer: 4}, newest=9, workers=[Reporting(name="a", version=8, newest=9)]),
        "4 of its 4 jobs wait for policy version 9, which is published: worker a serves 8",
    ),
    "starting": (
        facts(workers=[Reporting(name="a", state="starting", model="math-7b")]),
        "4 of its 4 jobs wait, and no worker takes any now: a is starting, it loads math-7b",
    ),
    "draining": (
        facts(workers=[Reporting(name="a", state="draining"), Reporting(name="b", state="starting")]),
        "4 of its 4 jobs wait, and no worker takes any now: a is draining, b is starting",
    ),
    "workers that are paused": (
        facts(
            workers=[
                Reporting(name="a", state="paused", paused_for=("memory", "adapter cache")),
                Reporting(
                    name="b", state="paused", paused_for=("policy",), newest=3, problem="there is no such folder"
                ),
            ]
        ),
        "4 of its 4 jobs wait, and no worker takes any now: a is paused for memory and adapter cache, "
        "b is paused for policy, it refused version 3: there is no such folder",
    ),
    "a backlog": (
        facts(workers=[A, B], waiting=2, held={"a": 1, "b": 1}, backlog=40),
        "2 of its 4 jobs wait until a worker has room, 40 of the whole queue do; live: a, b; "
        "2 of its 4 jobs run: 1 in worker a, 1 in worker b",
    ),
    "a worker that is gone": (
        facts(waiting=0, held={"z": 2}),
        "2 of its 4 jobs run: 2 in worker z, which is gone",
    ),
    "jobs that are gone": (
        facts(waiting=0),
        "none of its jobs waits or runs: were entries deleted from the jobs stream?",
    ),
    "many workers": (
        facts(workers=[Reporting(name=name, state="draining") for name in "abcdef"]),
        "4 of its 4 jobs wait, and no worker takes any now: a is draining, b is draining, c is draining, and 3 more",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_batch_says_what_it_waits_for(case: str) -> None:
    told, expected = CASES[case]
    assert waiting_for(told) == expected


def test_a_publish_names_the_workers_that_cannot_serve_it() -> None:
    serving = {
        "a": Serving(version=1, newest=1, problem="", draining=False, refused_kinds=frozenset({"checkpoint"})),
        "b": Serving(version=1, newest=2, problem="it is half-written", draining=False),
        "c": Serving(version=2, newest=2, problem="", draining=False, refused_kinds=frozenset({"adapter", "store"})),
    }
    refused = "worker b serves version 1 and refused 2: it is half-written"
    assert list(unserved(serving, "checkpoint")) == [
        "worker a takes no published checkpoints: start it with --checkpoint-dir",
        refused,
    ]
    assert list(unserved(serving, "adapter")) == [refused, "worker c takes no published adapters: start it with --lora"]
    assert list(unserved(serving, "store")) == [
        refused,
        "worker c takes no versions from the weight store: start it with --weights",
    ]


def test_a_policy_whose_last_worker_died_is_not_named_as_another_one() -> None:
    told = waiting_for(facts(workers=[], elsewhere=["p"]))

    assert told == "no worker serves policy 'p': start one with `rollstream-worker --policy p`"
