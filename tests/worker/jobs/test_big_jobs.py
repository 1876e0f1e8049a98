"""A job of any size leaves its neighbours their places, and other workers theirs."""

from __future__ import annotations

from collections import Counter

import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.worker.delivery.admission import Load
from tests.support.faults import Queue, audit
from tests.support.processes.counting_worker import BIG, ONE, SMALL, WIDE, runs, serving
from tests.support.weights.publishing import lora
from tests.support.weights.versions import announce
from tests.support.worker_process import until_true

pytestmark = pytest.mark.usefixtures("short_reads")


@pytest.mark.parametrize(("groups", "config"), [(2000, ONE), (200, WIDE)], ids=["many groups", "wide groups"])
async def test_a_small_job_is_answered_beside_a_big_one(
    redis_url: str, policy: str, trainer: AsyncClient, groups: int, config: GenerationConfig
) -> None:
    async with serving(redis_url, policy, group_s=0.01) as (_, engine):
        big = await trainer.submit([[BIG]] * groups, None, config, prompts_per_job=4096)
        await runs(engine, 1)
        small = await trainer.submit([[SMALL]] * 8, None, ONE, prompts_per_job=2)
        await small.wait(timeout=30)
        done = await big.done()

    assert done < groups / 2


async def test_a_big_job_gets_no_more_places_than_its_neighbour(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, group_s=0.01) as (_, engine):
        big = await trainer.submit([[BIG]] * 300, None, ONE, prompts_per_job=4096)
        await runs(engine, 4)
        small = await trainer.submit([[SMALL]] * 100, None, ONE, prompts_per_job=4096)
        await until_true(lambda: engine.running[SMALL])
        before = await big.done()
        await small.wait(timeout=30)
        meanwhile = await big.done() - before

    assert 70 < meanwhile < 130


async def test_several_big_jobs_keep_a_small_one_waiting_no_longer_than_their_turns(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, group_s=0.005) as (_, engine):
        bigs = [await trainer.submit([[BIG]] * 1000, None, WIDE, prompts_per_job=4096) for _ in range(3)]
        await runs(engine, 1)
        small = await trainer.submit([[SMALL]] * 4, None, ONE)
        await small.wait(timeout=60)
        done = [await big.done() for big in bigs]

    assert max(done) < 500, done
    assert min(done) > 0, done


async def test_beside_a_busy_worker_an_idle_one_gets_the_next_job(
    redis_url: str, policy: str, queue: Queue, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, "busy") as (_, engine):
        engine.gate.clear()
        await trainer.submit([[BIG]] * 100, None, ONE, prompts_per_job=4096)
        await runs(engine, 4)
        async with serving(redis_url, policy, "idle"):
            await until_true(lambda: "idle" in queue.consumers())
            for _ in range(10):
                small = await trainer.submit([[SMALL]], None, ONE)
                await small.wait(timeout=20)
                (answer,) = [one for one in queue.answers(small.batch_id) if one.kind != "sealed"]
                assert answer.worker == "idle"


@pytest.mark.parametrize("kind", ["a version that cannot be loaded", "an adapter of a later version"])
async def test_groups_that_get_their_place_once_their_weights_are_too_old_are_not_sampled(
    redis_url: str, policy: str, queue: Queue, trainer: AsyncClient, kind: str
) -> None:
    async with serving(redis_url, policy, lora=True) as (worker, engine):
        if "adapter" in kind:
            await trainer.publish_policy(1, adapter=lora(seed=1), lora_alpha=8)
            await trainer.wait_for_version(1, timeout=30)
        engine.gate.clear()
        batch = await trainer.submit([[BIG]] * 50, None, ONE, prompts_per_job=4096, max_staleness=0)
        await runs(engine, 4)
        if "adapter" in kind:
            await trainer.publish_policy(2, adapter=lora(seed=2), lora_alpha=8)
            await trainer.wait_for_version(2, timeout=30)
        else:
            announce(queue, 1, "nowhere")
            await until_true(lambda: worker._follower.newest == 1)
        engine.gate.set()
        await batch.wait(timeout=20)
        await until_true(lambda: worker._admission.load == Load())

    answers = audit(redis_url, policy, batch.batch_id, 50)
    assert Counter(getattr(answer, "code", "sampled") for answer in answers) == {"sampled": 4, "too_stale": 46}
    assert engine.started == 4
