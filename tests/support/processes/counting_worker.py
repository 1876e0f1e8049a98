"""A worker in the test's process, whose engine counts what runs and answers while its gate is open."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rollstream import GenerationConfig
from rollstream.worker.app import Worker
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.requests import Completion, GenerateRequest
from tests.support.worker_process import until_true

ONE = GenerationConfig(max_new_tokens=1)


WIDE = GenerationConfig(max_new_tokens=1, num_return_sequences=32)


BIG, SMALL = 5, 6
"""First token of their prompts."""


class CountingEngine(StubEngine):
    """Answers the first `answers` groups while its gate is open, after `group_s`; knows what runs of which job."""

    def __init__(self, settings: WorkerSettings, group_s: float = 0.0) -> None:
        super().__init__(settings)
        self.gate = asyncio.Event()
        self.gate.set()
        self.group_s = group_s
        self.running: Counter[int] = Counter()
        self.started = 0
        self.answers: int | None = None

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        job = request.prompt[0]
        self.running[job] += 1
        self.started += 1
        is_answered = self.answers is None or self.started <= self.answers
        try:
            if not is_answered:
                await asyncio.Event().wait()
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
    worker = Worker(settings=chosen, engine=engine)
    running = asyncio.create_task(worker.run())
    try:
        yield worker, engine
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def runs(engine: CountingEngine, number: int) -> None:
    """Return once so many groups run."""

    await until_true(lambda: engine.running.total() >= number)


def only_lease(worker: Worker) -> Lease:
    (lease,) = worker._leases._held
    return lease
