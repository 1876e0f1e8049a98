"""What parts of a reading decide by themselves: who lives, how many jobs wait, which node is full, which page comes."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from rollstream.producer.observe.fleet import Presence
from rollstream.producer.observe.parts.ages import age_s
from rollstream.producer.observe.parts.batches import _next_page
from rollstream.producer.observe.parts.memory import fullest
from rollstream.producer.observe.parts.queues import waiting_jobs
from rollstream.producer.observe.parts.workers import presence_of, seconds_since
from rollstream.schemas.hashes.totals import Totals

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("is_there", "age_s", "heartbeat_s", "presence"),
    [
        (True, 0.5, 1.0, Presence.LIVE),
        (True, 1.5, 1.0, Presence.LIVE),
        (True, 1.6, 1.0, Presence.LATE),
        (True, 7.0, 5.0, Presence.LIVE),
        (True, 1.6, None, Presence.LATE),
        (True, -0.5, 1.0, Presence.LIVE),
        (True, -10.0, 1.0, Presence.LATE),
        (False, 0.5, 1.0, Presence.GONE),
        (False, 100.0, 1.0, Presence.GONE),
    ],
)
def test_beats_tell_whether_a_worker_lives(
    is_there: bool, age_s: float, heartbeat_s: float | None, presence: Presence
) -> None:
    assert presence_of(is_there=is_there, beat=NOW - age_s, now=NOW, heartbeat_s=heartbeat_s) is presence


def test_a_beat_ahead_of_the_clock_has_no_age() -> None:
    assert seconds_since(NOW - 3, NOW) == 3.0
    assert seconds_since(NOW + 0.5, NOW) == 0.0
    assert seconds_since(NOW + 5, NOW) is None


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [(NOW - 1.2345, 1.234), (NOW, 0.0), (NOW + 5, 0.0), (inf, 0.0), (-inf, 0.0), (nan, 0.0), (-1e300, 0.0)],
)
def test_a_moment_that_is_no_time_has_no_age(moment: float, seconds: float) -> None:
    assert age_s(moment, NOW) == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize(
    ("group", "entries", "sums", "waiting"),
    [
        (None, 7, {}, 7),
        ({"pending": 2, "lag": 4}, 7, {"jobs_queued": 99}, 4),
        ({"pending": 2, "lag": None}, 7, {"jobs_queued": 10, "jobs_acknowledged": 5}, 3),
        ({"pending": 2}, 7, {"jobs_queued": 10, "jobs_acknowledged": 5}, 3),
        ({"pending": 2}, 3, {"jobs_queued": 10, "jobs_acknowledged": 0}, 1),
        ({"pending": 2}, 7, {"jobs_queued": 1, "jobs_acknowledged": 5}, 0),
        ({"pending": 9}, 7, {"jobs_queued": 99, "jobs_acknowledged": 0}, 0),
    ],
)
def test_jobs_that_wait_are_counted_by_redis_or_else_by_the_totals(
    group: dict[str, Any] | None, entries: int, sums: dict[str, int], waiting: int
) -> None:
    assert waiting_jobs(group, entries, Totals(**sums)) == waiting


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([], None),
        ([{"used_memory": 5, "maxmemory": 0}], (5, 0)),
        ([{"used_memory": 5, "maxmemory": 0}, {"used_memory": 7, "maxmemory": 0}], (7, 0)),
        ([{"used_memory": 9, "maxmemory": 100}, {"used_memory": 5, "maxmemory": 10}], (5, 10)),
        ([{"used_memory": "x"}], (0, 0)),
    ],
)
def test_the_node_that_is_nearest_to_its_limit_is_shown(
    nodes: list[dict[str, Any]], found: tuple[int, int] | None
) -> None:
    assert fullest(nodes) == found


def test_older_batches_are_looked_at_page_by_page_in_every_partition() -> None:
    counts, page, seen = [250, 10, 120], None, []
    for _ in range(8):
        page = _next_page(page, counts, 100)
        seen.append(page)

    assert seen == [(0, 100), (0, 200), (2, 100), (0, 100), (0, 200), (2, 100), (0, 100), (0, 200)]
    assert _next_page(None, [3, 4], 100) is None
    assert _next_page((0, 100), [3, 4], 100) is None
