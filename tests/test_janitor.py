"""Nothing unread or pending is trimmed, and no consumer that holds something is removed."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from schemas import Keys
from schemas.keys import GROUP
from worker.admission import Admission
from worker.janitor import Janitor


@pytest.fixture
async def jobs(redis: Redis, policy: str) -> str:
    """A stream of five old entries, ids 1-0 to 5-0."""
    key = Keys(policy).jobs(0)
    await redis.xgroup_create(key, GROUP, id="0", mkstream=True)
    for number in range(1, 6):
        await redis.xadd(key, {"payload": b""}, id=f"{number}-0")
    return key


async def read(redis: Redis, jobs: str, count: int, consumer: str = "w1") -> None:
    await redis.xreadgroup(GROUP, consumer, {jobs: ">"}, count=count)


async def ids(redis: Redis, jobs: str) -> list[str]:
    entries: Any = await redis.xrange(jobs)
    return [entry.decode() for entry, _ in entries]


async def test_an_entry_that_was_not_delivered_is_never_trimmed(redis: Redis, jobs: str) -> None:
    await Janitor(redis, [jobs], 0, Admission(1)).trim(jobs)

    assert len(await ids(redis, jobs)) == 5


async def test_a_pending_entry_and_all_after_it_stay(redis: Redis, jobs: str) -> None:
    await read(redis, jobs, 5)
    await redis.xack(jobs, GROUP, "1-0", "2-0", "4-0", "5-0")

    trimmed = await Janitor(redis, [jobs], 0, Admission(1)).trim(jobs)

    assert trimmed == 2
    assert await ids(redis, jobs) == ["3-0", "4-0", "5-0"]


async def test_finished_entries_go_after_their_retention(redis: Redis, jobs: str) -> None:
    await redis.xadd(jobs, {"payload": b""})
    await read(redis, jobs, 6)
    await redis.xack(jobs, GROUP, *await ids(redis, jobs))

    await Janitor(redis, [jobs], 1000, Admission(1)).trim(jobs)

    assert len(await ids(redis, jobs)) == 1


async def test_a_stream_that_does_not_exist_is_left_alone(redis: Redis, policy: str) -> None:
    assert await Janitor(redis, [], 0, Admission(1)).trim(Keys(policy).jobs(0)) == 0


async def test_only_silent_consumers_that_hold_nothing_are_removed(redis: Redis, jobs: str) -> None:
    await read(redis, jobs, 1, "holds-one")
    await redis.xgroup_createconsumer(jobs, GROUP, "holds-nothing")

    await Janitor(redis, [jobs], 0, Admission(1)).remove_dead_consumers(jobs, idle_s=-1)

    consumers: Any = await redis.xinfo_consumers(jobs, GROUP)
    assert [consumer["name"] for consumer in consumers] == [b"holds-one"]
