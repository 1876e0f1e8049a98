"""What only numbers show: consumers that pile up, readers that fall behind, workers that are slow among fast ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from rollstream import AsyncClient, BatchHandle, Client
from rollstream.schemas import Keys, Sealed
from rollstream.schemas.keys import GROUP
from rollstream.worker.app import Worker
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from tests.support.fault_steps import holds, is_of, log_of, stub, tokens, wait_until_done, wait_until_held
from tests.support.faults import Queue, audit
from tests.support.janitors import janitor_of
from tests.support.worker_process import WorkerProcess, until

ABANDONED_EACH = 25
"""Every 25th start ends as by a kill."""


async def run_once(redis: Redis, settings: WorkerSettings, *, in_order: bool) -> None:
    """A whole life of a worker in this process: until its name is in the consumer group, and then to its end."""
    running = asyncio.create_task(Worker(settings=settings, engine=StubEngine(settings)).run())
    while settings.consumer not in await names(redis, settings.policy):
        assert not running.done(), running
        await asyncio.sleep(0)
    if in_order:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 10)
    else:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(running, 10)


async def names(redis: Redis, policy: str) -> set[str]:
    """In the consumer group."""
    rows: Any = await redis.xinfo_consumers(Keys(policy).jobs(0), GROUP)
    return {row["name"].decode() for row in rows}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("starts", [50, pytest.param(1000, marks=pytest.mark.large)])
async def test_many_starts_leave_no_consumer_but_one_that_holds_something(
    redis: Redis, redis_url: str, policy: str, client: Client, queue: Queue, starts: int
) -> None:
    version = str((await redis.info("server"))["redis_version"])
    if version.startswith(("6.", "7.0.")):
        pytest.skip("before 7.2 a read that waits makes no consumer, so starts leave none")
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    settings = WorkerSettings(policy=policy, engine="stub", redis=redis_url, heartbeat_s=0.05, lease_s=1)
    with capture_logs():  # thousands of lines that say nothing
        for number in range(starts):
            named = settings.model_copy(update={"consumer": f"start-{number}"})
            await run_once(redis, named, in_order=number % ABANDONED_EACH > 0)
    assert len(await names(redis, policy)) == starts // ABANDONED_EACH

    batch = client.submit([[5]], None, tokens())
    queue.redis.xreadgroup(GROUP, "start-25", {queue.jobs_key: ">"})
    janitor = janitor_of(redis, policy)
    await janitor.remove_dead_consumers(queue.jobs_key, 0)
    assert await names(redis, policy) == {"start-25"}

    with stub(redis_url, policy) as live:
        wait_until_done(queue, batch.batch_id, 1, live)
        await until(lambda: is_gone(queue, "start-25"))
        await janitor.remove_dead_consumers(queue.jobs_key, -1)
        (left,) = await names(redis, policy)
        assert is_of(left, live)


async def is_gone(queue: Queue, worker: str) -> bool:
    """It holds nothing, and its report has expired."""
    return not queue.holders() and not queue.redis.exists(queue.keys.worker(worker))


@pytest.fixture
async def reader(redis_url: str, policy: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=policy) as client:
        yield client


@pytest.mark.timeout(300)
@pytest.mark.parametrize("groups", [2_000, pytest.param(10_000, marks=pytest.mark.large)])
async def test_a_slow_reader_of_thousands_of_results_misses_none_while_jobs_are_trimmed(
    redis: Redis, redis_url: str, policy: str, reader: AsyncClient, stub_worker: WorkerProcess, groups: int
) -> None:
    jobs_key = Keys(policy).jobs(0)
    janitor = janitor_of(redis, policy, seconds=0)
    trimmed = 0

    async def trim_for_ever() -> None:
        nonlocal trimmed
        while True:
            trimmed += await janitor.trim(jobs_key)
            await asyncio.sleep(0.005)

    trimming = asyncio.create_task(trim_for_ever())
    handle = await reader.submit([[5 + row % 900] for row in range(groups)], None, tokens(1), prompts_per_job=8)
    seen = []
    async for answer in handle.groups():
        seen.append(answer.group)
        if len(seen) % 500 == 0:  # slow: at times half a thousand results behind
            await until(lambda: ahead(handle, min(groups, len(seen) + 500)), timeout_s=30)
    await until(lambda: none_left(redis, jobs_key))
    trimming.cancel()

    assert sorted(seen) == list(range(groups))
    assert trimmed >= groups // 8 - 1, "the newest job may stay, no other"
    audit(redis_url, policy, handle.batch_id, groups)


async def ahead(handle: BatchHandle, groups: int) -> bool:
    return await handle.done() >= groups


async def none_left(redis: Redis, jobs_key: str) -> bool:
    """Finished jobs are gone, but for the newest that was delivered."""
    return int(await redis.xlen(jobs_key)) <= 1


def test_jobs_behind_a_slow_worker_are_done_by_an_idle_one(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, "--grace-s", "0", group_s=60.0, at_once=1) as slow:
        client.submit([[5]], None, tokens())
        wait_until_held(slow, queue)
        with stub(redis_url, policy, group_s=0.05, at_once=1) as idle:
            short = client.submit([[5 + row] for row in range(20)], None, tokens(), prompts_per_job=1)
            wait_until_done(queue, short.batch_id, 20, idle)
            assert holds(slow, queue), log_of(slow, idle)

    answers = [answer for answer in queue.answers(short.batch_id) if not isinstance(answer, Sealed)]
    assert len(answers) == 20
    assert all(is_of(answer.worker, idle) for answer in answers)
