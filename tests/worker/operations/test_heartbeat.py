"""A worker's beat: its report, its place in the index of workers, the name of its policy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.policies.live_workers import live_names
from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.keys import POLICIES
from rollstream.schemas.times import LONGEST_REPORT_TTL_S
from rollstream.worker.operations.heartbeat import Heartbeat

KEYS = Keys("p")


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    """The URL of a server of its own."""
    with EmbeddedRedis() as own:
        client = Redis.from_url(own.url)
        yield client
        await client.aclose()


def heart(redis: Redis, consumer: str = "w", keys: Keys = KEYS) -> Heartbeat:
    return Heartbeat(
        redis=redis, keys=keys, consumer=consumer, interval_s=1, report=lambda: WorkerReport(state="serving")
    )


async def test_a_beat_places_the_worker_by_redis_clock_until_it_retires(redis: Redis) -> None:
    await heart(redis).beat()
    await heart(redis, "other").beat()
    score = await redis.zscore(KEYS.workers(), "w")

    assert abs((score or 0.0) - time.time()) < 60
    assert await live_names(redis, KEYS) == ["other", "w"]

    await heart(redis).retire()
    assert await redis.zrange(KEYS.workers(), 0, -1) == [b"other"]
    assert await redis.exists(KEYS.worker("w")) == 0


async def test_a_worker_that_fell_silent_counts_no_more_and_leaves_the_index(redis: Redis) -> None:
    now: Any = await redis.time()
    await redis.zadd(KEYS.workers(), {"dead": now[0] - 10, "long dead": now[0] - LONGEST_REPORT_TTL_S - 10})

    assert await live_names(redis, KEYS) == []
    await heart(redis).beat()
    assert await redis.zrange(KEYS.workers(), 0, -1) == [b"dead", b"w"]
    assert await live_names(redis, KEYS) == ["w"]


async def test_what_a_report_does_not_say_any_more_is_not_read_any_more(redis: Redis) -> None:
    reports = [WorkerReport(state="serving", loading_version=2, tokens_per_s=3.0), WorkerReport(state="serving")]
    beats = Heartbeat(redis=redis, keys=KEYS, consumer="w", interval_s=1, report=lambda: reports.pop(0))
    await beats.beat()
    await beats.beat()

    told: Any = await redis.hgetall(KEYS.worker("w"))
    read = WorkerReport.of(told)
    assert (read.state, read.loading_version, read.tokens_per_s) == ("serving", None, None)


async def test_what_a_beat_writes_expires_when_nobody_beats(redis: Redis) -> None:
    await heart(redis).beat()
    written = sorted([key async for key in redis.scan_iter()])

    assert written == sorted([KEYS.worker("w").encode(), KEYS.workers().encode(), POLICIES.encode()])
    assert [0 < await redis.ttl(key) <= LONGEST_REPORT_TTL_S for key in written] == [True] * 3


async def test_an_index_that_became_something_else_is_made_again(redis: Redis) -> None:
    await redis.set(KEYS.workers(), "no index")
    await heart(redis).beat()
    assert await redis.zrange(KEYS.workers(), 0, -1) == [b"w"]


async def test_policies_are_named_while_they_have_workers(redis: Redis) -> None:
    now: Any = await redis.time()
    await redis.zadd(POLICIES, {"gone": now[0] - LONGEST_REPORT_TTL_S - 10})
    await asyncio.gather(*(heart(redis, keys=Keys(policy)).beat() for policy in ("math", "code")))
    assert sorted(await redis.zrange(POLICIES, 0, -1)) == [b"code", b"math"]


async def test_a_worker_that_may_write_its_own_policys_keys_alone_reports_all_the_same(redis: Redis) -> None:
    await redis.execute_command("ACL", "SETUSER", "few", "on", ">x", "+@all", "~rs:{p}:*")  # type: ignore[no-untyped-call]
    kwargs = redis.connection_pool.connection_kwargs
    few = Redis(host=kwargs["host"], port=kwargs["port"], username="few", password="x")
    heartbeat = heart(few)

    await heartbeat.beat()
    denied: Any = await redis.execute_command("ACL", "LOG")  # type: ignore[no-untyped-call]
    await heartbeat.beat()
    denied_since: Any = await redis.execute_command("ACL", "LOG")  # type: ignore[no-untyped-call]
    await few.aclose()

    assert await redis.zrange(KEYS.workers(), 0, -1) == [b"w"]
    assert await redis.exists(POLICIES) == 0
    assert denied
    assert _counts(denied_since) == _counts(denied), "it is tried once"


def _counts(log: list[dict[bytes, Any]]) -> list[int]:
    return [int(entry[b"count"]) for entry in log]
