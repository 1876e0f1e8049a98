"""How many jobs a worker asks for at once: never more than there is room for, nor more than idle others would mind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from producer import AsyncClient
from schemas import GenerationConfig
from schemas.keys import GROUP
from tests.faults import Queue, audit
from tests.worker_process import until
from worker.admission import OF_LATE, Admission, Load
from worker.app import Worker
from worker.config import WorkerSettings
from worker.engine import Completion, GenerateRequest
from worker.stub_engine import StubEngine

SMALL = GenerationConfig(max_new_tokens=1)
LARGE = GenerationConfig(max_new_tokens=1, num_return_sequences=4)


@pytest.mark.parametrize(
    ("of_late", "load", "most", "fits"),
    [
        ([], Load(), 9, 1),
        ([Load(1, 1, 1)], Load(), 1, 1),
        ([Load(1, 1, 1)], Load(), 9, 8),
        ([Load(1, 1, 1)], Load(3, 3, 1), 9, 5),
        ([Load(1, 3, 1)], Load(), 9, 3),
        ([Load(1, 3, 1), Load(1, 1, 1)], Load(1, 5, 0), 9, 1),
        ([Load(1, 1, 40)], Load(), 9, 3),
        ([Load(1, 1, 40)], Load(1, 1, 30), 9, 2),
        ([Load(1, 8, 1), *[Load(1, 1, 1)] * OF_LATE], Load(), 9, 8),
        ([Load(1, 1, 1)], Load(1, 9, 1), 9, 1),
    ],
)
def test_as_many_fit_as_if_each_were_as_large_as_the_largest_of_late(
    of_late: list[Load], load: Load, most: int, fits: int
) -> None:
    admission = Admission(8, 100)
    for each in of_late:
        admission.admit(each)
        admission.release(each)
    admission.load += load

    assert admission.fits(most) == fits


def test_while_there_is_a_reason_to_pause_one_fits() -> None:
    admission = Admission(8, 100)
    admission.admit(Load(1, 1, 1))
    admission.pause("memory")

    assert admission.fits(9) == 1


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
    running = asyncio.create_task(Worker(settings, engine).run())
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
    async def are_pending(*counts: int) -> bool:
        return await deliveries(redis, queue) == list(counts)

    async def one_is_held_and_others_are_given_back() -> bool:
        *given_back, held = await deliveries(redis, queue) or [0]
        return held == 1 and set(given_back) == {0}

    async with serving(redis_url, policy) as engine:
        small = await trainer.submit([[5], [6], [7], [8]], None, SMALL, prompts_per_job=1)
        await until(lambda: are_pending(1, 1, 1, 1))
        large = await trainer.submit([[5], [6], [7], [8]], None, LARGE, prompts_per_job=1)
        engine.small.set()
        await until(one_is_held_and_others_are_given_back)
        engine.large.set()
        await until(are_pending)

    for batch in (small, large):
        answers = audit(redis_url, policy, batch.batch_id, 4)
        assert [getattr(answer, "delivery", None) for answer in answers] == [1] * 4


async def test_a_worker_that_fills_up_asks_for_one_job_at_a_time(
    redis: Redis, redis_url: str, policy: str, queue: Queue, trainer: AsyncClient
) -> None:
    """Else one of several idle workers would take what all of them have room for."""
    await trainer.submit([[5], [6], [7], [8]], None, SMALL, prompts_per_job=1)
    await redis.config_resetstat()

    async def four_are_held() -> bool:
        return await deliveries(redis, queue) == [1] * 4

    async with serving(redis_url, policy):
        await until(four_are_held)

    stats: Any = await redis.info("commandstats")
    assert stats["cmdstat_xreadgroup"]["calls"] >= 4
