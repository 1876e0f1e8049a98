"""A job of any size leaves its neighbours their places, and what it holds of a worker is counted from the read on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig
from rollstream.schemas import Envelope, Keys
from rollstream.worker.app import Worker
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.admission import Load
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.engine import Completion, GenerateRequest
from rollstream.worker.engines.stub import StubEngine
from tests.support.faults import Queue, audit
from tests.support.publishing import lora
from tests.support.versions import announce
from tests.support.worker_process import until

ONE = GenerationConfig(max_new_tokens=1)
WIDE = GenerationConfig(max_new_tokens=1, num_return_sequences=32)
BIG, SMALL = 5, 6
"""First token of their prompts."""


@pytest.fixture(autouse=True)
def short_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is cancelled while it reads ends with that read: redis-py may forget the cancellation."""
    monkeypatch.setattr("rollstream.worker.intake.consumer.BLOCK_MS", 100)


class CountingEngine(StubEngine):
    """Answers while its gate is open, after `group_s`; knows what runs of which job."""

    def __init__(self, settings: WorkerSettings, group_s: float = 0.0) -> None:
        super().__init__(settings)
        self.gate = asyncio.Event()
        self.gate.set()
        self.group_s = group_s
        self.running: Counter[int] = Counter()
        self.started = 0

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        job = request.prompt[0]
        self.running[job] += 1
        self.started += 1
        try:
            await asyncio.sleep(self.group_s)
            await self.gate.wait()
            return await super().generate(request)
        finally:
            self.running[job] -= 1


@asynccontextmanager
async def serving(
    redis_url: str, policy: str, consumer: str = "w", group_s: float = 0.0, **settings: Any
) -> AsyncIterator[tuple[Worker, CountingEngine]]:
    """A worker in this process with places for four sequences."""
    chosen = WorkerSettings(
        **{"policy": policy, "engine": "stub", "redis": redis_url, "consumer": consumer, "inflight_sequences": 4,
           "grace_s": 0, "heartbeat_s": 0.1, **settings}
    )  # fmt: skip
    engine = CountingEngine(chosen, group_s)
    worker = Worker(chosen, engine)
    running = asyncio.create_task(worker.run())
    try:
        yield worker, engine
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def runs(engine: CountingEngine, number: int) -> None:
    """Return once so many groups run."""

    async def enough() -> bool:
        return engine.running.total() >= number

    await until(enough)


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
        await until(lambda: _holds(engine.running[SMALL]))
        before = await big.done()
        await small.wait(timeout=30)
        meanwhile = await big.done() - before

    assert 70 < meanwhile < 130


async def _holds(condition: object) -> object:
    return condition


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
            await until(lambda: _holds("idle" in queue.consumers()))
            for _ in range(10):
                small = await trainer.submit([[SMALL]], None, ONE)
                await small.wait(timeout=20)
                (answer,) = [one for one in queue.answers(small.batch_id) if one.kind != "sealed"]
                assert answer.worker == "idle"


async def test_a_run_deadline_strikes_groups_that_wait_for_a_place_too(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy) as (worker, engine):
        engine.gate.clear()
        batch = await trainer.submit([[BIG]] * 200, None, ONE, prompts_per_job=4096, run_deadline_s=0.3)
        await batch.wait(timeout=20)
        await until(lambda: _holds(not worker._leases._held))
        started, load = engine.started, worker._admission.load

    answers = audit(redis_url, policy, batch.batch_id, 200)
    assert {getattr(answer, "code", None) for answer in answers} == {"run_deadline"}
    assert (started, load) == (4, Load())


async def test_groups_that_wait_for_a_place_are_left_to_the_next_owner_when_the_lease_ends(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, lease_s=1) as (worker, engine):
        engine.gate.clear()
        batch = await trainer.submit([[BIG]] * 50, None, ONE, prompts_per_job=4096)
        await runs(engine, 4)
        _only(worker).end()
        await until(lambda: _holds(not worker._admission.load.groups))
        counts = dict(worker._publisher.counts)
        engine.gate.set()
        await batch.wait(timeout=30)

    assert counts == {"published": 0, "duplicate": 0, "fenced": 50}
    audit(redis_url, policy, batch.batch_id, 50)


def _only(worker: Worker) -> Lease:
    (lease,) = worker._leases._held
    return lease


async def test_only_unanswered_groups_of_a_job_that_is_delivered_again_wait_for_places(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, group_s=0.02, lease_s=1) as (worker, engine):
        batch = await trainer.submit([[BIG]] * 50, None, ONE, prompts_per_job=4096)
        await until(lambda: _holds(worker._publisher.counts["published"] >= 20))
        engine.gate.clear()
        await runs(engine, 4)
        answered = worker._publisher.counts["published"]
        _only(worker).end()
        await until(lambda: _holds(not worker._leases._held))
        await runs(engine, 4)
        waiting = worker._admission.waiting
        engine.gate.set()
        await batch.wait(timeout=30)

    assert waiting == 50 - answered - 4
    audit(redis_url, policy, batch.batch_id, 50)


@pytest.mark.parametrize("kind", ["a version that cannot be loaded", "an adapter of a later version"])
async def test_groups_that_get_their_place_once_their_weights_are_too_old_are_not_sampled(
    redis_url: str, policy: str, queue: Queue, trainer: AsyncClient, kind: str
) -> None:
    async with serving(redis_url, policy, lora=True) as (worker, engine):
        if "adapter" in kind:
            await trainer.publish_policy(1, adapter=lora(seed=1), lora_alpha=8)
            await trainer.wait_for_version(1, timeout=10)
        engine.gate.clear()
        batch = await trainer.submit([[BIG]] * 50, None, ONE, prompts_per_job=4096, max_staleness=0)
        await runs(engine, 4)
        if "adapter" in kind:
            await trainer.publish_policy(2, adapter=lora(seed=2), lora_alpha=8)
            await trainer.wait_for_version(2, timeout=10)
        else:
            announce(queue, 1, "nowhere")
            await until(lambda: _holds(worker._policy.newest == 1))
        engine.gate.set()
        await batch.wait(timeout=20)
        await until(lambda: _holds(worker._admission.load == Load()))

    answers = audit(redis_url, policy, batch.batch_id, 50)
    assert Counter(getattr(answer, "code", "sampled") for answer in answers) == {"sampled": 4, "too_stale": 46}
    assert engine.started == 4


async def test_a_drain_gives_back_a_job_whose_groups_wait_and_counts_no_delivery(
    redis_url: str, policy: str, queue: Queue, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, "first") as (worker, engine):
        engine.gate.clear()
        batch = await trainer.submit([[BIG]] * 50, None, ONE, prompts_per_job=4096)
        await runs(engine, 4)
        worker._begin_drain()
        await until(lambda: _holds(all(held.deliveries == 0 for held in queue.holders().values())))
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
            await until(lambda: _holds(queue.redis.exists(queue.jobs_key)))
            await redis.acl_setuser("slow", reset=True, categories=["+@all"], commands=["-xadd"], **rights)
            for number in range(5):
                fields: Any = Envelope(f"junk-{number}", 0, 0, 1, 1).fields(b"\xc1" * 100_000)
                await redis.xadd(queue.jobs_key, fields)
            await until(lambda: _holds(len(queue.holders()) == 3 and worker._admission.load.nbytes > 300_000))
            assert not worker._admission.has_room
            await asyncio.sleep(0.3)  # nothing more comes, which is no state to wait for
            assert len(queue.holders()) == 3

            await redis.acl_setuser("slow", reset=True, categories=["+@all"], **rights)
            await until(lambda: _holds(len(queue.dead()) == 5 and not queue.holders()))
            await until(lambda: _holds(worker._admission.load == Load()))
    finally:
        await redis.acl_deluser("slow")


async def test_a_job_that_waits_to_be_buried_leaves_its_places_to_others(
    redis: Redis, redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    """Its ledger refuses answers, and the stream of dead letters refuses the job."""
    keys = Keys(policy, 1)
    rights: Any = {"enabled": True, "passwords": "+secret", "channels": ["*"], "categories": ["+@all"]}
    few = [f"{keys.jobs(0).removesuffix('jobs')}{name}*" for name in ("jobs", "results:", "ledger:")]
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
            await until(lambda: _holds(not worker._admission.load.groups))
            await until(lambda: _holds(len(worker._leases) == 1))  # the other job is here still
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
