"""The task that keeps running completions ends with its worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.schemas import Envelope, GenerationConfig, Keys
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.turns import Claim
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.jobs.admitted_job import AdmittedJob
from rollstream.worker.jobs.keeping.keeper import Keeper
from rollstream.worker.jobs.samples import Samples
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.requests import GenerateRequest
from tests.support.partials.parts import VOCAB, deliver, job_of, parts_at

EVERY_S = 0.0001
CONFIG = GenerationConfig(max_new_tokens=20_000, num_return_sequences=4, seed=7)


async def test_it_ends_when_it_is_cancelled_though_redis_py_loses_cancellations(
    redis: Redis, redis_url: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollstream.worker.jobs.keeping.keeper.LEAVES", 0)
    job = job_of(groups=1, config=CONFIG)
    lease = await deliver(redis, Keys(policy), job)
    admitted = AdmittedJob(lease=lease, envelope=Envelope.of_job(job), job=job, claim=Claim(payload=0))
    engine = StubEngine(WorkerSettings(policy=policy, engine="stub", stub_tokens_per_s=100_000, stub_vocab_size=VOCAB))
    request = GenerateRequest(request_id="r", prompt=[0, 1], config=CONFIG, stop_token_ids=(), seed=7, adapter=None)
    for _ in range(60):
        commands, tasks = connect(redis_url), list[asyncio.Task[None]]()

        def start(role: Coroutine[Any, Any, None], tasks: list[asyncio.Task[None]] = tasks) -> asyncio.Task[None]:
            tasks.append(asyncio.create_task(role))
            return tasks[-1]

        keeper = Keeper(parts=parts_at(commands, Keys(policy)), engine=engine, every_s=EVERY_S, lease_s=30)
        samples = Samples(engine=engine, request=request)
        keeper.begin(start)
        sampling = asyncio.create_task(samples.run())
        with keeper.watching(admitted, job, 0, samples):
            await asyncio.sleep(random.uniform(0.0005, 0.006))
            keeper.end()
            _, running = await asyncio.wait(tasks, timeout=20)
        sampling.cancel()
        await asyncio.wait([sampling])
        await commands.aclose()

        assert not running
