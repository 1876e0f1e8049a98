"""How many jobs a worker asks for at once: never more than there is room for, nor more than idle others would mind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient
from rollstream.schemas import GenerationConfig
from rollstream.schemas.keys import GROUP
from rollstream.schemas.pause_reason import PauseReason
from rollstream.worker.app import Worker
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.admission import OF_LATE, Admission, Claim, Load
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.redis_io.streams import create_group, read_of
from rollstream.worker.requests import Completion, GenerateRequest
from tests.support.faults import Queue, audit
from tests.support.worker_process import until

SMALL = GenerationConfig(max_new_tokens=1)
LARGE = GenerationConfig(max_new_tokens=1, num_return_sequences=4)


@pytest.mark.parametrize(
    ("of_late", "at_hand", "most", "fits"),
    [
        ([], [], 9, 1),
        ([Load(groups=1, sequences=1, nbytes=1)], [], 1, 1),
        ([Load(groups=1, sequences=1, nbytes=1)], [], 9, 8),
        ([], [Load(groups=1, sequences=1, nbytes=1)] * 3, 9, 5),
        ([Load(groups=1, sequences=3, nbytes=1)], [], 9, 3),
        ([Load(groups=1, sequences=3, nbytes=1)], [Load(groups=1, sequences=1, nbytes=1)] * 5, 9, 1),
        ([Load(groups=1, sequences=1, nbytes=40)], [], 9, 3),
        ([Load(groups=1, sequences=1, nbytes=40)], [Load(groups=1, sequences=1, nbytes=30)], 9, 2),
        ([Load(groups=1, sequences=8, nbytes=1), *[Load(groups=1, sequences=1, nbytes=1)] * OF_LATE], [], 9, 8),
        ([Load(groups=1, sequences=1, nbytes=1)], [Load(groups=1, sequences=9, nbytes=1)], 9, 1),
    ],
)
def test_as_many_fit_as_if_each_were_as_large_as_the_largest_of_late(
    of_late: list[Load], at_hand: list[Load], most: int, fits: int
) -> None:
    admission = Admission(limit=8, limit_bytes=100)
    for each in of_late:
        admission.let_go(opened(admission, each))
    for each in at_hand:
        opened(admission, each)

    assert admission.fits(most) == fits


def test_while_there_is_a_reason_to_pause_one_fits() -> None:
    admission = Admission(limit=8, limit_bytes=100)
    opened(admission, Load(groups=1, sequences=1, nbytes=1))
    admission.set_paused(PauseReason.MEMORY, on=True)

    assert admission.fits(9) == 1


def opened(admission: Admission, load: Load) -> Claim:
    """A job with a payload of `load.nbytes`, and of one group."""
    claim = admission.hold(load.nbytes)
    admission.expect(claim, 1, Load(groups=1, sequences=load.sequences))
    return claim


class GatedEngine(StubEngine):
    """Answers once the gate of its kind of job is open: small jobs, or large ones."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self.small, self.large = asyncio.Event(), asyncio.Event()

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        await (self.large if request.config.num_return_sequences > 1 else self.small).wait()
        return await super().generate(request)


@asynccontextmanager
async def serving(redis_url: str, policy: str) -> AsyncIterator[GatedEngine]:
    """The engine of a worker with room for four sequences that runs in this process."""
    settings = WorkerSettings(
        policy=policy, engine="stub", redis=redis_url, consumer="w", inflight_sequences=4, lease_s=2, grace_s=0
    )
    engine = GatedEngine(settings)
    running = asyncio.create_task(Worker(settings=settings, engine=engine).run())
    try:
        yield engine
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def deliveries(redis: Redis, queue: Queue) -> list[int]:
    """Counts of the pending entries; one that was given back has none. Nothing without a consumer group."""
    if not await redis.exists(queue.jobs_key) or not await redis.xinfo_groups(queue.jobs_key):
        return []
    rows: Any = await redis.xpending_range(queue.jobs_key, GROUP, "-", "+", 100)
    return sorted(row["times_delivered"] for row in rows)


async def test_jobs_that_turn_out_too_large_are_given_back_and_no_delivery_counts(
    redis: Redis, redis_url: str, policy: str, queue: Queue, trainer: AsyncClient
) -> None:
    async def one_is_held_and_three_are_given_back() -> bool:
        return await deliveries(redis, queue) == [0, 0, 0, 1]

    settings = WorkerSettings(policy=policy, engine="stub", redis=redis_url, consumer="w", inflight_sequences=4)
    engine = GatedEngine(settings)
    worker = Worker(settings=settings, engine=engine)
    worker._proofs.allow(0)  # as its start does
    batch = await trainer.submit([[5], [6], [7], [8]], None, LARGE, prompts_per_job=1)
    await create_group(redis, queue.jobs_key)
    entries = await read_of(redis, "w", [queue.jobs_key], None, 4)

    async with asyncio.TaskGroup() as jobs:
        await worker._consumer._take(jobs, *entries)
        await until(one_is_held_and_three_are_given_back)
        engine.large.set()
    async with serving(redis_url, policy) as other:
        other.large.set()
        await batch.wait(timeout=30)

    answers = audit(redis_url, policy, batch.batch_id, 4)
    assert [getattr(answer, "delivery", None) for answer in answers] == [1] * 4


async def test_while_intake_is_paused_no_more_than_the_one_job_that_was_let_in_is_kept_of_a_read(
    redis: Redis, redis_url: str, policy: str, queue: Queue, trainer: AsyncClient
) -> None:
    settings = WorkerSettings(policy=policy, engine="stub", redis=redis_url, consumer="w")
    worker = Worker(settings=settings, engine=StubEngine(settings))
    worker._proofs.allow(0)  # as its start does
    await trainer.submit([[5], [6], [7]], None, SMALL, prompts_per_job=1)
    await create_group(redis, queue.jobs_key)
    entries = await read_of(redis, "w", [queue.jobs_key], None, 3)
    worker._admission.set_paused(PauseReason.MEMORY, on=True)
    worker._admission.let_one_in(PauseReason.MEMORY)

    async with asyncio.TaskGroup() as jobs:
        await worker._consumer._take(jobs, *entries)

    assert await deliveries(redis, queue) == [0, 0]


async def test_a_job_that_is_taken_in_the_moment_in_which_the_worker_ends_is_given_back(
    redis: Redis, redis_url: str, policy: str, queue: Queue, trainer: AsyncClient
) -> None:
    """A task that is cancelled before its first step runs nothing, not even its clean-up."""
    settings = WorkerSettings(policy=policy, engine="stub", redis=redis_url, consumer="w")
    consumer = Worker(settings=settings, engine=StubEngine(settings))._consumer
    await trainer.submit([[5]], None, SMALL)
    await create_group(redis, queue.jobs_key)
    (entry,) = await read_of(redis, "w", [queue.jobs_key], None, 1)

    async def take_and_end() -> None:
        async with asyncio.TaskGroup() as jobs:
            consumer._start(jobs, consumer._terms.lease(entry), entry, is_spare=False)
            raise RuntimeError("the grace period is over")

    await asyncio.gather(take_and_end(), return_exceptions=True)
    await consumer.leave(counted=False)

    assert await deliveries(redis, queue) == [0]


async def test_a_worker_that_fills_up_asks_for_one_job_at_a_time(
    redis: Redis, redis_url: str, policy: str, queue: Queue, trainer: AsyncClient
) -> None:
    """Otherwise one of several idle workers would take jobs that all of them have room for."""
    await trainer.submit([[5], [6], [7], [8]], None, SMALL, prompts_per_job=1)
    await redis.config_resetstat()

    async def four_are_held() -> bool:
        return await deliveries(redis, queue) == [1] * 4

    async with serving(redis_url, policy):
        await until(four_are_held)

    stats: Any = await redis.info("commandstats")
    assert stats["cmdstat_xreadgroup"]["calls"] >= 4


class PacedEngine(StubEngine):
    """A fiftieth of a second a completion."""

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        await asyncio.sleep(0.02)
        return await super().generate(request)


async def test_a_dead_workers_job_does_not_wait_for_the_end_of_a_backlog(
    redis: Redis, redis_url: str, policy: str, queue: Queue, trainer: AsyncClient
) -> None:
    dead = await trainer.submit([[5]], None, SMALL, prompts_per_job=1)
    await create_group(redis, queue.jobs_key)
    await read_of(redis, "dead", [queue.jobs_key], None, 1)
    backlog = await trainer.submit([[6]] * 500, None, SMALL, prompts_per_job=1)
    settings = WorkerSettings(
        policy=policy, engine="stub", redis=redis_url, consumer="w", inflight_sequences=1, lease_s=2, grace_s=0
    )
    running = asyncio.create_task(Worker(settings=settings, engine=PacedEngine(settings)).run())
    try:
        await dead.wait(timeout=60)
        done = await backlog.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert done < 400
