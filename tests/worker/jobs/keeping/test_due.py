"""What the keeper knows of groups that are due is in proportion to those that run, however long its period."""

from __future__ import annotations

import math
from contextlib import ExitStack

from redis.asyncio import Redis

from rollstream.schemas import Envelope, GenerationConfig, Keys
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.delivery.turns import Claim
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.jobs.admitted_job import AdmittedJob
from rollstream.worker.jobs.keeping.keeper import Keeper
from rollstream.worker.jobs.samples import Samples
from rollstream.worker.requests import GenerateRequest
from tests.support.partials.parts import job_of, parts_at

RUNNING, ENDED = 8, 500
CONFIG = GenerationConfig(max_new_tokens=100, num_return_sequences=2, seed=7)


async def test_groups_that_ended_leave_nothing_behind_though_they_were_due_in_an_hour(
    redis: Redis, policy: str
) -> None:
    engine = StubEngine(WorkerSettings(policy=policy, engine="stub"))
    keeper = Keeper(parts=parts_at(redis, Keys(policy)), engine=engine, every_s=3600, lease_s=30)
    job = job_of(groups=1, config=CONFIG)
    lease = Lease(jobs_key="j", dead_key="d", entry_id="1-0", consumer="w", delivery=1, ends_at=math.inf)
    admitted = AdmittedJob(lease=lease, envelope=Envelope.of_job(job), job=job, claim=Claim(payload=0))
    request = GenerateRequest(request_id="r", prompt=[0, 1], config=CONFIG, stop_token_ids=(), seed=7, adapter=None)

    with ExitStack() as running:
        for _ in range(RUNNING):
            running.enter_context(keeper.watching(admitted, job, 0, Samples(engine=engine, request=request)))
        for _ in range(ENDED):
            keeper.hurry(lease)
            with keeper.watching(admitted, job, 0, Samples(engine=engine, request=request)):
                pass
        left = list(keeper._due)

    assert len(left) <= 2 * RUNNING
    assert len({number for _, number in left}) >= RUNNING, "each that runs is still due"
    assert keeper._due == []
