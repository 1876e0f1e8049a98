"""Nothing unread or pending is trimmed, and no consumer that holds something is removed."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP
from rollstream.schemas.parked import ParkedFor
from tests.support.faults import Queue
from tests.support.janitors import janitor_of
from tests.support.reports import report_of

LARGE = b"x" * 50_000
"""A payload with a node of the stream to itself."""


@pytest.fixture
async def jobs(redis: Redis, policy: str) -> str:
    """A stream of five old entries, ids 1-0 to 5-0."""
    return await stream(redis, policy, b"")


@pytest.fixture
async def large_jobs(redis: Redis, policy: str) -> str:
    """The same with payloads of 50 kB."""
    return await stream(redis, policy, LARGE)


async def stream(redis: Redis, policy: str, payload: bytes) -> str:
    key = Keys(policy).jobs(0)
    await redis.xgroup_create(key, GROUP, id="0", mkstream=True)
    for number in range(1, 6):
        await redis.xadd(key, {"payload": payload}, id=f"{number}-0")
    return key


async def read(redis: Redis, jobs: str, count: int, consumer: str = "w1") -> None:
    await redis.xreadgroup(GROUP, consumer, {jobs: ">"}, count=count)


async def ids(redis: Redis, jobs: str) -> list[str]:
    entries: Any = await redis.xrange(jobs)
    return [entry.decode() for entry, _ in entries]


async def size(redis: Redis, jobs: str) -> int:
    return int(await redis.memory_usage(jobs, samples=0) or 0)


async def test_an_entry_that_was_not_delivered_is_never_trimmed(redis: Redis, large_jobs: str, policy: str) -> None:
    await janitor_of(redis, policy, seconds=0, nbytes=0).trim(large_jobs)

    assert len(await ids(redis, large_jobs)) == 5


async def test_a_pending_entry_and_all_after_it_stay(redis: Redis, jobs: str, policy: str) -> None:
    await read(redis, jobs, 5)
    await redis.xack(jobs, GROUP, "1-0", "2-0", "4-0", "5-0")

    trimmed = await janitor_of(redis, policy, seconds=0).trim(jobs)

    assert trimmed == 2
    assert await ids(redis, jobs) == ["3-0", "4-0", "5-0"]


async def test_finished_entries_go_after_their_retention(redis: Redis, jobs: str, policy: str) -> None:
    await redis.xadd(jobs, {"payload": b""})
    await read(redis, jobs, 6)
    await redis.xack(jobs, GROUP, *await ids(redis, jobs))

    await janitor_of(redis, policy, seconds=1000).trim(jobs)

    assert len(await ids(redis, jobs)) == 1


async def test_finished_entries_go_oldest_first_while_the_stream_is_too_large(
    redis: Redis, large_jobs: str, policy: str
) -> None:
    await read(redis, large_jobs, 5)
    await redis.xack(large_jobs, GROUP, *await ids(redis, large_jobs))

    trimmed = await janitor_of(redis, policy, nbytes=3 * len(LARGE)).trim(large_jobs)

    assert trimmed == 3
    assert await ids(redis, large_jobs) == ["4-0", "5-0"]


async def test_a_stream_within_its_size_keeps_its_finished_entries(redis: Redis, large_jobs: str, policy: str) -> None:
    await read(redis, large_jobs, 5)
    await redis.xack(large_jobs, GROUP, *await ids(redis, large_jobs))

    assert await janitor_of(redis, policy, nbytes=10 * len(LARGE)).trim(large_jobs) == 0


@pytest.mark.parametrize(
    ("finished", "left"),
    [
        (["1-0", "2-0", "4-0", "5-0"], ["3-0", "4-0", "5-0"]),
        (["2-0", "3-0", "4-0", "5-0"], ["1-0", "2-0", "3-0", "4-0", "5-0"]),
        ([], ["1-0", "2-0", "3-0", "4-0", "5-0"]),
    ],
    ids=["one pending", "the oldest pending", "all pending"],
)
async def test_size_is_no_reason_to_trim_what_is_pending_or_behind_it(
    redis: Redis, large_jobs: str, policy: str, finished: list[str], left: list[str]
) -> None:
    await read(redis, large_jobs, 5)
    if finished:
        await redis.xack(large_jobs, GROUP, *finished)

    await janitor_of(redis, policy, nbytes=0).trim(large_jobs)

    assert await ids(redis, large_jobs) == left
    assert (await redis.xpending(large_jobs, GROUP))["pending"] == 5 - len(finished)


async def test_a_long_stream_of_small_jobs_is_trimmed_to_its_size(redis: Redis, policy: str) -> None:
    jobs = Keys(policy).jobs(0)
    await redis.xgroup_create(jobs, GROUP, id="0", mkstream=True)
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(1, 10_001):
            pipe.xadd(jobs, {"payload": b"x" * (50 + number % 200)}, id=f"{number}-0")
        await pipe.execute()
    await read(redis, jobs, 10_000)
    await redis.xack(jobs, GROUP, *[f"{number}-0" for number in range(1, 9_991)])

    await janitor_of(redis, policy, nbytes=500_000).trim(jobs)

    left = await ids(redis, jobs)
    assert 400_000 < await size(redis, jobs) <= 500_000
    assert left == [f"{number}-0" for number in range(10_001 - len(left), 10_001)]
    assert await janitor_of(redis, policy, seconds=0, nbytes=0).trim(jobs) == len(left) - 10
    assert (await ids(redis, jobs))[0] == "9991-0"


async def test_history_is_given_up_in_steps_oldest_first_and_no_further_than_what_is_pending(
    redis: Redis, policy: str
) -> None:
    jobs = Keys(policy).jobs(0)
    await redis.xgroup_create(jobs, GROUP, id="0", mkstream=True)
    for number in range(1, 31):
        await redis.xadd(jobs, {"payload": LARGE}, id=f"{number}-0")
    await read(redis, jobs, 30)
    await redis.xack(jobs, GROUP, *[f"{number}-0" for number in range(1, 26)])
    keeper = janitor_of(redis, policy)

    steps = [await keeper.give_up_history() for _ in range(3)]

    assert sum(steps) == 25
    assert 0 < steps[0] < 25
    assert steps[-1] == 0
    assert (await ids(redis, jobs))[0] == "26-0"


async def test_a_stream_that_does_not_exist_is_left_alone(redis: Redis, policy: str) -> None:
    assert await janitor_of(redis, policy).trim(Keys(policy).jobs(0)) == 0


async def test_idle_consumers_that_hold_nothing_are_removed(redis: Redis, jobs: str, policy: str) -> None:
    await read(redis, jobs, 1, "holds-one")
    await redis.xgroup_createconsumer(jobs, GROUP, "holds-nothing")
    await redis.xgroup_createconsumer(jobs, GROUP, ParkedFor(7).consumer)

    with capture_logs() as logs:
        await janitor_of(redis, policy).remove_dead_consumers(jobs, idle_s=-1)

    assert await consumers(redis, jobs) == ["holds-one"]
    assert [line["dead"] for line in logs] == ["holds-nothing"], "one that stands for waiting jobs is no dead worker"


async def test_a_live_worker_that_asks_for_nothing_keeps_its_consumer(
    redis: Redis, redis_url: str, jobs: str, policy: str
) -> None:
    for worker in ("self", "neighbour", "dead"):
        await redis.xgroup_createconsumer(jobs, GROUP, worker)
    with Queue(redis_url, policy) as queue:
        report_of(queue.redis, queue.keys, "neighbour", {"state": "paused"})
    janitor = janitor_of(redis, policy, consumer="self")

    with capture_logs() as logs:
        await janitor.remove_dead_consumers(jobs, idle_s=-1)

    assert await consumers(redis, jobs) == ["neighbour", "self"]
    assert [line["dead"] for line in logs] == ["dead"]


async def test_a_worker_that_ends_takes_only_its_own_consumer_along(redis: Redis, jobs: str, policy: str) -> None:
    for worker in ("self", "neighbour"):
        await redis.xgroup_createconsumer(jobs, GROUP, worker)

    await janitor_of(redis, policy, consumer="self").retire()

    assert await consumers(redis, jobs) == ["neighbour"]


async def consumers(redis: Redis, jobs: str) -> list[str]:
    found: Any = await redis.xinfo_consumers(jobs, GROUP)
    return sorted(consumer["name"].decode() for consumer in found)
