"""The first line says in words how the fleet is, and the notes below it what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from rollstream.producer.observe.fleet import Fleet, FleetWorker, Presence
from rollstream.producer.observe.web.fleet_json import fleet_json
from rollstream.producer.operations.queue_state import QueueSeen
from rollstream.producer.policies.parked import Parked
from rollstream.schemas.hashes.worker_report import WorkerReport
from tests.support.watching.fleets import backlog_lasting, version_of
from tests.support.watching.invented_fleet import invented_fleet
from tests.support.watching.live_page import opened, running_web


@pytest.fixture(scope="module")
def page(browser: Browser, redis_url: str) -> Iterator[Page]:
    """A page whose modules are asked here."""
    with running_web(redis_url, "words", token="") as url, opened(browser, url, token="") as page:
        yield page


def ask(page: Page, module: str, function: str, given: Any) -> Any:
    """What a function of the page answers."""
    call = f"async (given) => (await import('/assets/{module}.js')).{function}(given)"
    return page.evaluate(call, given)


def told(fleet: Fleet) -> Any:
    return json.loads(fleet_json(fleet))


def worker(name: str = "w", *, presence: Presence = Presence.LIVE, **said: Any) -> FleetWorker:
    report = WorkerReport(**{"state": "serving", "policy_version": 17, "tokens_per_s": 620.0, **said})
    return FleetWorker(consumer=name, presence=presence, seen_s_ago=0.4, report=report)


def fleet(*workers: FleetWorker, waiting: int | None = 0, pending: int = 0, **changes: Any) -> Fleet:
    """Like the invented one, with these workers and jobs."""
    oldest = 240.0 if waiting else None
    queue = QueueSeen(partition=0, entries=0, waiting=waiting, pending=pending, oldest_waiting_s=oldest, dead_letters=0)
    plain = {
        "versions": (),
        "letters": (),
        "num_letters": 0,
        "minutes": (),
        "backlog": backlog_lasting(0.0),
        "queues": (queue,),
    }
    return replace(invented_fleet(), workers=workers, **{**plain, **changes})


SERVING = (worker("w1"), worker("w2"))
HEADLINES = {
    "good": (
        fleet(*SERVING, waiting=42, pending=8, backlog=backlog_lasting(180.0)),
        "2 workers serve version 17, 1,240 tokens/s, 42 jobs wait, about 3 min of work.",
    ),
    "runs": (fleet(*SERVING, pending=1), "2 workers serve version 17, 1,240 tokens/s, 1 job runs, none waits."),
    "idle": (fleet(worker()), "1 worker serves version 17. There is nothing to do."),
    "boot model": (
        fleet(worker(policy_version=0)),
        "1 worker serves the model it booted with. There is nothing to do.",
    ),
    "two versions": (
        fleet(worker("w1"), worker("w2", policy_version=9)),
        "2 workers serve versions 17 and 9. There is nothing to do.",
    ),
    "one is late": (
        fleet(worker("w1"), worker("w2", presence=Presence.LATE), waiting=1),
        "1 of 2 workers serves version 17, 1,240 tokens/s, 1 job waits.",
    ),
    "all start": (fleet(worker(state="starting"), waiting=2), "No worker takes jobs: 1 starts. 2 jobs wait."),
    "none takes jobs": (
        fleet(worker("w1", state="paused"), worker("w2", presence=Presence.LATE)),
        "No worker takes jobs: 1 is late and 1 is paused. No job waits.",
    ),
    "no worker": (fleet(waiting=42), "No worker: 42 jobs wait, the oldest for 4 min."),
    "gone": (
        fleet(worker(presence=Presence.GONE), pending=3),
        "No worker: 3 jobs run, none waits, 3 were taken by workers that are gone.",
    ),
    "asleep": (fleet(), "No worker, and no job waits."),
    "nothing": (fleet(num_batches=0), "Nothing here yet: no worker, and no batch was submitted."),
    "uncounted": (
        fleet(worker(), waiting=None),
        "1 worker serves version 17, 620 tokens/s, an unknown number of jobs waits.",
    ),
}


@pytest.mark.parametrize("case", HEADLINES)
def test_the_first_line_says_how_it_is(page: Page, case: str) -> None:
    seen, line = HEADLINES[case]

    assert ask(page, "parts/headline", "headline", {"fleet": told(seen), "down": None, "lost": None})["text"] == line


def test_a_paused_queue_is_said_before_all_else(page: Page) -> None:
    seen = told(fleet(*SERVING, waiting=4, paused=True, paused_s_ago=180.0))

    line = ask(page, "parts/headline", "headline", {"fleet": seen, "down": None, "lost": None})

    assert line["text"].startswith("Paused by an operator since ")
    assert line["text"].endswith(" (3 min): 4 jobs wait, 2 workers stand by.")


@pytest.mark.parametrize(
    ("away", "line"),
    [
        ({"down": {"since": 0, "why": "refused"}, "lost": None}, "Redis does not answer since "),
        ({"down": None, "lost": 0}, "The server of this page does not answer since "),
    ],
)
def test_stale_data_says_since_when(page: Page, away: dict[str, Any], line: str) -> None:
    with_data = ask(page, "parts/headline", "headline", {"fleet": told(fleet(*SERVING, read_at=3.0)), **away})
    much_older = ask(page, "parts/headline", "headline", {"fleet": told(fleet(*SERVING, read_at=90.0)), **away})
    without = ask(page, "parts/headline", "headline", {"fleet": None, **away})

    assert with_data["text"].startswith(line)
    assert with_data["text"].endswith("What follows is from then.")
    assert re.search(r"What follows is from [^t].*:01:30\.$", much_older["text"])
    assert with_data["level"] == without["level"] == "bad"
    assert "What follows" not in without["text"]


PARKED = QueueSeen(
    partition=0, entries=0, waiting=0, pending=12, oldest_waiting_s=None, dead_letters=0,
    parked=(Parked(version=19, jobs=12, oldest_s=700.0, oldest_batch=""),), ids_ahead_s=90.0,
)  # fmt: skip
NOTES = {
    "a late worker": (fleet(worker(presence=Presence.LATE)), "w is late since"),
    "a worker that is gone": (fleet(worker(presence=Presence.GONE, lease_s=30.0)), "take over its jobs within 45 s"),
    "many that are gone": (fleet(*(worker(f"w{n}", presence=Presence.GONE) for n in range(9))), "9 workers are gone"),
    "a full Redis": (fleet(worker(state="paused", paused_for=("memory",))), "w paused for memory (Redis is"),
    "a reason from later": (fleet(worker(state="paused", paused_for=("moon",))), "w paused for moon."),
    "memory": (fleet(redis_memory=950, redis_memory_limit=1000), "Redis has used 95 %"),
    "parked jobs": (fleet(queues=(PARKED,)), "12 jobs wait for policy version 19, which was not announced"),
    "a clock set back": (fleet(queues=(PARKED,)), "Redis' clock was set back by 1 min 30 s"),
    "dead letters": (fleet(num_letters=2, letters=invented_fleet().letters), "2 jobs were given up on; the newest 10"),
    "a refused version": (invented_fleet(), "Version 7 is refused by gpu-2: layers.0: another shape"),
    "a version that nobody activated": (
        fleet(worker(), versions=(version_of(18, waits_for="by_hand", prepared_by=("w",)), version_of(17))),
        "Version 18, announced 1 min 35 s ago, waits until somebody activates it; 1 of 1 worker can serve it.",
    ),
    "a version that is not prepared": (
        fleet(worker(), versions=(version_of(18, waits_for="when_prepared"),)),
        "waits until enough workers have prepared it; 0 of 1 worker can serve it.",
    ),
    "jobs for a version that is not active": (
        fleet(queues=(PARKED,), versions=(version_of(19, waits_for="by_hand"),)),
        "12 jobs wait for policy version 19, which is not active",
    ),
    "a version that cannot be prepared": (
        fleet(worker(newest_version=17, announced_version=18, policy_error="half")),
        "Version 18 is refused by w: half",
    ),
    "refused by a late one, never announced": (
        fleet(worker(presence=Presence.LATE, newest_version=18, policy_error="half")),
        "Version 18 is refused by w: half",
    ),
    "errors": (invented_fleet(), "groups got errors in the last 10 min: too_long ("),
    "what could not be read": (fleet(problems=("batch x is left out",)), "batch x is left out"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTES)
def test_a_note_says_what_is_wrong(page: Page, case: str) -> None:
    seen, text = NOTES[case]

    assert text in "\n".join(note["text"] for note in ask(page, "parts/notes", "notes", told(seen)))


def test_a_fleet_that_works_has_no_notes(page: Page) -> None:
    assert ask(page, "parts/notes", "notes", told(fleet(*SERVING, waiting=42))) == []


@pytest.mark.parametrize(
    ("function", "given", "words"),
    [
        ("duration", 0.04, "0 s"), ("duration", 5.25, "5.3 s"), ("duration", 12.4, "12 s"),
        ("duration", 200, "3 min 20 s"), ("duration", 7_500, "2 h 5 min"),
        ("duration", 90_000, "1 d 1 h"), ("duration", 3_600, "1 h"),
        ("bytes", 2**40 + 1, "1 TiB"), ("age", 119, "1 min 59 s"), ("age", 200, "3 min"), ("age", 172_900, "2 d"),
        ("about", 0.2, "less than 1 s"), ("about", 170, "about 3 min"), ("about", 80, "about 80 s"),
        ("about", 20_000, "about 6 h"), ("rate", 1240.4, "1,240"), ("rate", 3.14, "3.1"), ("bytes", 2**30, "1 GiB"),
        ("bytes", 0, "0 B"), ("short", 5_400_000, "5.4M"), ("count", 1240, "1,240"),
    ],
)  # fmt: skip
def test_numbers_are_said_as_people_say_them(page: Page, function: str, given: float | None, words: str) -> None:
    assert ask(page, "kit/words", function, given) == words
