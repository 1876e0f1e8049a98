"""What a job holds of a worker is counted from the read on, and given back however the job ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig
from rollstream.schemas import Envelope, Keys
from rollstream.worker.delivery.admission import Load
from tests.support.faults import Queue, audit
from tests.support.processes.counting_worker import BIG, ONE, SMALL, only_lease, runs, serving
from tests.support.worker_process import until_true

pytestmark = pytest.mark.usefixtures("short_reads")


async def test_a_run_deadline_strikes_groups_that_wait_for_a_place_too(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy) as (worker, engine):
        engine.gate.clear()
        batch = await trainer.submit([[BIG]] * 200, None, ONE, prompts_per_job=4096, run_deadline_s=2)
        await batch.wait(timeout=20)
        await until_true(lambda: not worker._leases._held)
        started, load = engine.started, worker._admission.load

    answers = audit(redis_url, policy, batch.batch_id, 200)
    assert {getattr(answer, "code", None) for answer in answers} == {"run_deadline"}
    assert (started, load) == (4, Load())


async def test_sequences_count_as_ended_only_if_the_engine_ran_them_to_their_ends(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy) as (worker, engine):
        pairs = GenerationConfig(max_new_tokens=1, num_return_sequences=2)
        batch = await trainer.submit([[BIG], [BIG], [2**30]], None, pairs)
        answered = await batch.result(timeout=20)
        await until_true(lambda: worker._admission.load == Load())
        ended = worker._admission.ended
        engine.gate.clear()
        late = await trainer.submit([[BIG]] * 6, None, pairs, prompts_per_job=6, run_deadline_s=1)
        await late.wait(timeout=20)
        await until_true(lambda: worker._admission.load == Load())

    assert list(answered.errors) == [2]
    assert (ended, worker._admission.ended) == (4, 4)


async def test_groups_that_wait_for_a_place_are_left_to_the_next_owner_when_the_lease_ends(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, lease_s=1) as (worker, engine):
        engine.gate.clear()
        batch = await trainer.submit([[BIG]] * 50, None, ONE, prompts_per_job=4096)
        await runs(engine, 4)
        only_lease(worker).end()
        await until_true(lambda: not worker._admission.load.groups)
        counts = dict(worker._measures.groups)
        engine.gate.set()
        await batch.wait(timeout=30)

    assert counts == {"result": 0, "error": 0, "duplicate": 0, "fenced": 50, "cut": 0}
    audit(redis_url, policy, batch.batch_id, 50)


async def test_only_unanswered_groups_of_a_job_that_is_delivered_again_wait_for_places(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, group_s=0.02, lease_s=2) as (worker, engine):
        batch = await trainer.submit([[BIG]] * 50, None, ONE, prompts_per_job=4096)
        await until_true(lambda: worker._measures.published >= 20)
        engine.gate.clear()
        await runs(engine, 4)
        answered = worker._measures.published
        only_lease(worker).end()
        await until_true(lambda: not worker._leases._held)
        await runs(engine, 4)
        waiting = worker._admission.waiting
        engine.gate.set()
        await batch.wait(timeout=30)

    assert waiting == 50 - answered - 4
    audit(redis_url, policy, batch.batch_id, 50)


async def test_a_drain_gives_back_a_job_whose_groups_wait_and_counts_no_delivery(
    redis_url: str, policy: str, queue: Queue, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, "first") as (worker, engine):
        engine.gate.clear()
        batch = await trainer.submit([[BIG]] * 50, None, ONE, prompts_per_job=4096)
        await runs(engine, 4)
        worker._begin_drain()
        await until_true(lambda: all(held.deliveries == 0 for held in queue.holders().values()))
        assert engine.started == 4
    async with serving(redis_url, policy, "second"):
        await batch.wait(timeout=30)

    answers = audit(redis_url, policy, batch.batch_id, 50)
    assert {getattr(answer, "delivery", None) for answer in answers} == {1}


async def test_jobs_that_nobody_can_read_are_counted_while_redis_does_not_take_them(
    redis: Redis, redis_url: str, policy: str, queue: Queue
) -> None:
    """Five of 100 KB, of which a worker of 250 KB may hold three: the third was read below the limit."""
    rights: Any = {"enabled": True, "passwords": "+secret", "keys": ["*"], "channels": ["*"]}
    await redis.acl_setuser("slow", reset=True, categories=["+@all"], **rights)
    try:
        async with serving(redis_url.replace("://", "://slow:secret@"), policy, inflight_bytes=250_000) as (worker, _):
            await until_true(lambda: queue.redis.exists(queue.jobs_key))
            await redis.acl_setuser("slow", reset=True, categories=["+@all"], commands=["-xadd"], **rights)
            for number in range(5):
                fields: Any = Envelope(
                    batch_id=f"junk-{number}", job=0, first_group=0, job_groups=1, num_groups=1
                ).fields(b"\xc1" * 100_000)
                await redis.xadd(queue.jobs_key, fields)
            await until_true(lambda: len(queue.holders()) == 3 and worker._admission.load.nbytes > 300_000)
            assert not worker._admission.has_room
            await asyncio.sleep(0.3)  # nothing more comes, which is no state to wait for
            assert len(queue.holders()) == 3

            await redis.acl_setuser("slow", reset=True, categories=["+@all"], **rights)
            await until_true(lambda: len(queue.dead()) == 5 and not queue.holders())
            await until_true(lambda: worker._admission.load == Load())
    finally:
        await redis.acl_deluser("slow")


async def test_a_job_that_waits_to_be_buried_leaves_its_places_to_others(
    redis: Redis, redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    """Its ledger refuses answers, and the stream of dead letters refuses the job."""
    keys = Keys(policy, partitions=1)
    rights: Any = {"enabled": True, "passwords": "+secret", "channels": ["*"], "categories": ["+@all"]}
    few = [
        f"{keys.jobs(0).removesuffix('jobs')}{name}*" for name in ("jobs", "results:", "ledger:", "totals", "routing:")
    ]
    await redis.acl_setuser("few", reset=True, keys=["*"], **rights)
    try:
        async with serving(redis_url.replace("://", "://few:secret@"), policy) as (worker, engine):
            engine.gate.clear()
            refused = await trainer.submit([[BIG]] * 50, None, ONE, prompts_per_job=4096)
            await runs(engine, 4)
            await redis.acl_setuser("few", reset=True, keys=[f"rs:{{{policy}}}:*", *few], **rights)
            await redis.hset(keys.ledger(refused.batch_id), "done", "no number")
            engine.gate.set()
            small = await trainer.submit([[SMALL]] * 8, None, ONE)
            await small.wait(timeout=20)
            await until_true(lambda: not worker._admission.load.groups)
            await until_true(lambda: len(worker._leases) == 1)  # the other job is here still
    finally:
        await redis.acl_deluser("few")


async def test_a_payload_beyond_the_limit_of_bytes_is_answered(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, inflight_bytes=100):
        batch = await trainer.submit([[BIG] * 1000] * 8, None, ONE)
        await batch.wait(timeout=20)

    answers = audit(redis_url, policy, batch.batch_id, 8)
    assert {answer.kind for answer in answers} == {"group"}
