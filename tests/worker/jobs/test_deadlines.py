"""A job's deadlines: one in the queue, by Redis' clock, one for each delivery; what was done in time is kept."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, Client, GenerationConfig, GroupError
from rollstream.schemas import Envelope, ErrorCode, Job, Keys, Tensor
from rollstream.schemas.keys import GROUP
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.admission import Admission
from rollstream.worker.delivery.answer_publisher import AnswerPublisher
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.delivery.parts import Parts
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.jobs.admitted_job import AdmittedJob
from rollstream.worker.jobs.deadlines import RedisClock, ran_too_long, waited_too_long
from rollstream.worker.jobs.make_runner import make_runner
from rollstream.worker.measure.measures import Measures
from rollstream.worker.requests import Adapter
from rollstream.worker.versions.make_follower import make_follower
from rollstream.worker.versions.proofs import Proofs
from rollstream.worker.weights.contents import Contents
from tests.support.fault_steps import stub, tokens, wait_until_done
from tests.support.faults import Queue, audit
from tests.support.processes.counting_worker import serving
from tests.support.worker_process import wait_for

ROUNDED_S = 1e-3


def job_of(queue_deadline_s: float | None = None, run_deadline_s: float | None = None, **changes: Any) -> Job:
    """One group."""
    fields: dict[str, Any] = {
        "batch_id": "b",
        "job": 0,
        "first_group": 0,
        "num_groups": 1,
        "prompt_ids": Tensor.of(np.array([5], np.int32)),
        "prompt_lengths": Tensor.of(np.array([1], np.int32)),
        "config": tokens(),
        "submitted_at": 0.0,
        "queue_deadline_s": queue_deadline_s,
        "run_deadline_s": run_deadline_s,
    }
    return Job(**fields | changes)


@pytest.mark.parametrize(
    ("deadline_s", "now", "late"),
    [(None, 1e9, False), (2.0, 101.0, False), (2.0, 103.5, False), (2.0, 103.6, True), (0.001, 101.6, True)],
)
def test_the_wait_counts_from_the_entrys_id(deadline_s: float | None, now: float, late: bool) -> None:
    error = waited_too_long(job_of(deadline_s), "101500-7", now)

    assert (error is not None) == late


def test_what_a_deadlines_error_says() -> None:
    queued, ran = waited_too_long(job_of(2.0), "101500-7", 105.0), ran_too_long(0.5)

    assert queued is not None
    assert (queued.code, queued.field) == (ErrorCode.QUEUE_DEADLINE, "queue_deadline_s")
    assert "waited 3.5 s" in queued.message
    assert (ran.code, ran.field) == (ErrorCode.RUN_DEADLINE, "run_deadline_s")
    assert "0.5 s" in ran.message


def test_the_clock_is_that_of_redis_and_late_rather_than_early() -> None:
    began = time.time()
    clock = RedisClock()
    assert began - ROUNDED_S <= clock.now() <= time.time() + ROUNDED_S

    sent_at = time.monotonic()
    clock.set(5000.0, sent_at + 10)  # the reply took ten seconds

    assert 4990 - ROUNDED_S <= clock.now() <= 4990 + time.monotonic() - sent_at + ROUNDED_S


def wait_until_late(queue: Queue, deadline_s: float) -> None:
    """Wait until every entry has waited longer by Redis' clock; a worker that starts after this sees it so."""

    def late() -> bool:
        seconds, micros = queue.redis.time()
        return seconds + micros / 1e6 > queued_at + deadline_s

    queued_at = int(queue.entries()[-1][0].partition("-")[0]) / 1000
    wait_for(late, 20, lambda: "Redis' clock stands still")


def test_a_job_that_waited_too_long_is_answered_without_generating(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    late = client.submit([[5], [6]], None, tokens(), queue_deadline_s=0.2)
    patient = client.submit([[7]], None, tokens(), queue_deadline_s=1000)
    wait_until_late(queue, 0.2)
    with stub(redis_url, policy) as worker:
        wait_until_done(queue, patient.batch_id, 1, worker)
        wait_until_done(queue, late.batch_id, 2, worker)
        worker.terminate()

    answers = audit(redis_url, policy, late.batch_id, 2)
    assert [answer.code for answer in answers if isinstance(answer, GroupError)] == ["queue_deadline"] * 2
    (answer,) = audit(redis_url, policy, patient.batch_id, 1)
    assert not isinstance(answer, GroupError)
    assert worker.log.count("kind=group") == 1


def test_the_queue_deadline_is_over_with_the_first_delivery(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batch = client.submit([[5]], None, tokens(), queue_deadline_s=0.2)
    queue.redis.xreadgroup(GROUP, "gone", {queue.jobs_key: ">"})
    wait_until_late(queue, 0.2)
    with stub(redis_url, policy) as worker:
        wait_until_done(queue, batch.batch_id, 1, worker)

        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert not isinstance(answer, GroupError)


def test_a_job_that_was_given_back_before_anything_was_answered_waits_on(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batch = client.submit([[5]], None, tokens(), queue_deadline_s=0.2)
    ((entry_id, _),) = queue.entries()
    queue.redis.xreadgroup(GROUP, "drained", {queue.jobs_key: ">"})
    queue.redis.xclaim(queue.jobs_key, GROUP, "drained", 0, [entry_id], idle=10**6, retrycount=0, justid=True)
    wait_until_late(queue, 0.2)
    with stub(redis_url, policy) as worker:
        wait_until_done(queue, batch.batch_id, 1, worker)

        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert isinstance(answer, GroupError)
        assert answer.code == "queue_deadline"


@pytest.mark.usefixtures("short_reads")
async def test_groups_that_were_done_before_the_run_deadline_keep_their_results(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy) as (_, engine):
        engine.answers = 3
        batch = await trainer.submit([[5 + row] for row in range(8)], None, tokens(), run_deadline_s=2)
        await batch.wait(timeout=30)

    answers = audit(redis_url, policy, batch.batch_id, 8)
    assert Counter(getattr(answer, "code", "done") for answer in answers) == {"done": 3, "run_deadline": 5}


@pytest.mark.parametrize("beams", [1, 2], ids=["sampling", "beam search"])
def test_a_run_deadline_frees_the_engine(redis_url: str, policy: str, client: Client, queue: Queue, beams: int) -> None:
    endless = GenerationConfig(max_new_tokens=4000, ignore_eos=True, num_beams=beams)  # takes 400 s
    with stub(redis_url, policy, group_s=1.0, at_once=2) as worker:
        batch = client.submit([[5], [6]], None, endless, run_deadline_s=0.3)
        wait_until_done(queue, batch.batch_id, 2, worker)
        again = client.submit([[7], [8]], None, tokens(1), run_deadline_s=10)
        wait_until_done(queue, again.batch_id, 2, worker)

        answers = audit(redis_url, policy, batch.batch_id, 2)
        assert [answer.code for answer in answers if isinstance(answer, GroupError)] == ["run_deadline"] * 2
        assert not any(isinstance(answer, GroupError) for answer in audit(redis_url, policy, again.batch_id, 2))


class LoadingEngine(StubEngine):
    """Loads an adapter for ever."""

    async def load_adapter(self, adapter: Adapter) -> None:  # noqa: ARG002 - a protocol's argument
        await asyncio.Event().wait()


async def test_a_run_deadline_covers_the_loading_of_an_adapter(
    redis: Redis, policy: str, tiny_model: Path, adapter_dir: Path
) -> None:
    keys, job = Keys(policy), job_of(run_deadline_s=0.1, adapter="math@1")
    envelope = Envelope(batch_id="b", job=0, first_group=0, job_groups=1, num_groups=1)
    await redis.xgroup_create(keys.jobs(0), GROUP, id="0", mkstream=True)
    fields: Any = envelope.fields(b"")
    entry_id: Any = await redis.xadd(keys.jobs(0), fields)
    await redis.xreadgroup(GROUP, "w1", {keys.jobs(0): ">"})
    lease = Lease(
        jobs_key=keys.jobs(0),
        dead_key=keys.dead(0),
        entry_id=entry_id.decode(),
        consumer="w1",
        delivery=1,
        ends_at=time.monotonic() + 30,
    )
    engine = LoadingEngine(WorkerSettings(policy=policy, engine="stub"))
    measures = Measures()
    proofs = Proofs()
    proofs.allow(0)
    publisher = AnswerPublisher(redis=redis, keys=keys, result_ttl_s=100, measures=measures, check_proven=proofs.check)
    adapters = AdapterSupply(
        engine=engine, folder=AdapterFolder(root=adapter_dir, max_rank=16, model=tiny_model), store=None
    )
    versions = make_follower(
        redis=redis,
        keys=keys,
        engine=engine,
        adapters=adapters,
        checkpoints=CheckpointSupply(folder=None),
        proofs=proofs,
        swap="keep",
        changed=lambda: None,
        measures=measures,
    )
    admission = Admission(limit=8)
    parts = Parts(
        redis=redis, keys=keys, measures=measures, check_proven=proofs.check, vocab_size=lambda: 100,
        content_of=Contents().of, most_bytes=0, most_policy_bytes=0,
    )  # fmt: skip
    runner, _ = make_runner(
        settings=WorkerSettings(policy=policy, engine="stub"),
        redis=redis,
        keys=keys,
        engine=engine,
        adapters=adapters,
        publisher=publisher,
        parts=parts,
        admission=admission,
        clock=RedisClock(),
        follower=versions,
        measures=measures,
    )

    async with asyncio.timeout(30):
        await runner.run(AdmittedJob(lease=lease, envelope=envelope, job=job, claim=admission.hold(0)))

    assert measures.published == 1
    assert lease.stopped is not None
    assert lease.stopped.code is ErrorCode.RUN_DEADLINE
    assert await redis.xlen(keys.results("b")) == 2
