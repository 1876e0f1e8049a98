"""What a worker holds is bounded in bytes, and nothing is read while Redis is nearly full."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import redis as blocking
from redis.asyncio import Redis

from rollstream import Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP
from rollstream.worker.delivery.admission import Admission
from rollstream.worker.intake.backpressure import Backpressure, Memory, nearly_full
from rollstream.worker.redis_io.connections import connect
from tests.support.fault_steps import TOKENS, stub, tokens, wait_until_done, wait_until_drained, wait_until_logged
from tests.support.faults import Queue
from tests.support.janitors import janitor_of
from tests.support.worker_process import wait_for

LARGE = b"x" * 100_000
BALLAST = 20_000_000


@pytest.mark.parametrize(
    ("used", "limit", "paused", "pauses"),
    [
        (0, 0, False, False),
        (10**12, 0, False, False),
        (10**12, 0, True, False),
        (899, 1000, False, False),
        (900, 1000, False, True),
        (2000, 1000, False, True),
        (899, 1000, True, True),
        (850, 1000, True, True),
        (849, 1000, True, False),
    ],
)
def test_intake_pauses_near_the_limit_and_resumes_well_under_it(
    used: int, limit: int, paused: bool, pauses: bool
) -> None:
    assert nearly_full(Memory(used=used, limit=limit), paused=paused) is pauses


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    """A server of its own, because its memory is limited."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
async def redis(server: EmbeddedRedis) -> AsyncIterator[Redis]:
    client = connect(server.url)
    yield client
    await client.aclose()


async def fill(redis: Redis, jobs: str, finished: int, unread: int = 0) -> None:
    """Large jobs, the oldest finished."""
    await redis.xgroup_create(jobs, GROUP, id="0", mkstream=True)
    for _ in range(finished):
        await redis.xadd(jobs, {"payload": LARGE})
    reply: Any = await redis.xreadgroup(GROUP, "w1", {jobs: ">"}, count=finished) if finished else []
    for _, entries in reply:
        await redis.xack(jobs, GROUP, *[entry_id for entry_id, _ in entries])
    for _ in range(unread):
        await redis.xadd(jobs, {"payload": LARGE})


async def limit(redis: Redis, share: float) -> None:
    """Set `maxmemory` so that `share` of it is used."""
    memory: Any = await redis.info("memory")
    used = memory["used_memory"] - memory["mem_not_counted_for_evict"]
    await redis.config_set("maxmemory", int(used / share))


async def test_history_makes_room_before_intake_stands_still(redis: Redis, policy: str) -> None:
    jobs = Keys(policy).jobs(0)
    await fill(redis, jobs, finished=60, unread=2)
    admission = Admission(limit=1)
    keeper = janitor_of(redis, policy, seconds=86_400, nbytes=2**30, admission=admission)
    await limit(redis, 0.95)

    await Backpressure(redis=redis, admission=admission, janitor=keeper).check()

    assert admission.paused == frozenset()
    assert 12 < int(await redis.xlen(jobs)) < 60, "more history was given up than was needed, or none"


async def test_without_history_intake_pauses_until_there_is_memory(redis: Redis, policy: str) -> None:
    jobs = Keys(policy).jobs(0)
    await fill(redis, jobs, finished=0, unread=60)
    admission = Admission(limit=1)
    backpressure = Backpressure(
        redis=redis,
        admission=admission,
        janitor=janitor_of(redis, policy, seconds=0, nbytes=0, admission=admission),
    )

    await limit(redis, 1.1)
    await backpressure.check()
    assert admission.paused == {"memory"}
    assert await redis.xlen(jobs) == 60, "an unread job was trimmed"

    await limit(redis, 0.88)
    await backpressure.check()
    assert admission.paused == {"memory"}

    await limit(redis, 0.5)
    await backpressure.check()
    assert admission.paused == frozenset()


def test_a_worker_reads_next_to_nothing_while_redis_is_nearly_full(server: EmbeddedRedis, policy: str) -> None:
    with (
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy) as client,
        blocking.Redis.from_url(server.url) as admin,
        stub(server.url, policy) as worker,
    ):
        admin.setrange("ballast", BALLAST, "x")
        used = cast("dict[str, int]", admin.info("memory"))["used_memory"]
        admin.config_set("maxmemory", int(used / 0.93))
        wait_until_logged(worker, "intake paused")
        batches = [client.submit([[5]], None, tokens()) for _ in range(5)]
        submitted_at = time.time()
        wait_for(lambda: seen_at(admin, policy) > submitted_at + 0.5, 30, lambda: worker.log)
        done = sum(queue.done(batch.batch_id) for batch in batches)
        admin.delete("ballast")
        wait_until_logged(worker, "intake resumed")
        for batch in batches:
            wait_until_done(queue, batch.batch_id, 1, worker)

    assert done <= 2, "more was read than by the read that was under way, and the one job that is let in"
    assert worker.log.count("intake paused") == 1
    assert "--result-ttl-s" in worker.log


def seen_at(admin: blocking.Redis, policy: str) -> float:
    """When the only worker reported last, unix seconds."""
    (key,) = admin.scan_iter(Keys(policy).worker("*"))
    return float(cast("bytes | None", admin.hget(key, "seen_at")) or 0)


def test_answers_that_wait_for_memory_are_bounded_kept_and_generated_once(server: EmbeddedRedis, policy: str) -> None:
    with (
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy) as client,
        blocking.Redis.from_url(server.url) as admin,
    ):
        batch = client.submit([[5 + row] for row in range(12)], None, tokens(), prompts_per_job=1)
        each = sum(len(name) + len(value) for name, value in queue.entries()[0][1].items()) + TOKENS * 65 // 8
        with stub(server.url, policy, "--inflight-bytes", str(3 * each + 1), group_s=1.0) as worker:
            wait_for(lambda: len(queue.holders()) >= 4, 30, lambda: worker.log)
            admin.config_set("maxmemory", "1")
            wait_until_logged(worker, "what=publish")
            held = len(queue.holders())
            admin.config_set("maxmemory", "0")
            wait_until_done(queue, batch.batch_id, 12, worker)
            wait_until_drained(worker)

    assert held == 4
    assert worker.log.count("group answered") == 12, "an answer was generated again"


def test_jobs_are_worked_off_one_at_a_time_while_redis_stays_nearly_full(server: EmbeddedRedis, policy: str) -> None:
    with (
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy) as client,
        blocking.Redis.from_url(server.url) as admin,
    ):
        admin.setrange("ballast", BALLAST, "x")
        used = cast("dict[str, int]", admin.info("memory"))["used_memory"]
        admin.config_set("maxmemory", int(used / 0.93))
        batch = client.submit([[5], [6], [7]], None, tokens(), prompts_per_job=1)
        with stub(server.url, policy, group_s=0.2) as worker:
            wait_until_logged(worker, "intake paused")
            wait_until_done(queue, batch.batch_id, 3, worker, timeout_s=30)

    assert "intake resumed" not in worker.log, "there was memory: nothing was shown"
