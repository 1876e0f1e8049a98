"""Nothing that unproven weights sampled leaves a worker, even if its engine breaks its promise."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.schemas import Part, decode
from rollstream.schemas.hashes.worker_report import WorkerState
from rollstream.worker.app import Worker
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Prove, SwapMode
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import UnprovenError
from rollstream.worker.weights.checkpoint import Content
from tests.support.faults import Queue
from tests.support.partials.partial_steps import asked, drained, serving
from tests.support.weights.probes import stub_probe
from tests.support.weights.versions import announce_step
from tests.support.worker_process import until_true


class Hasty(StubEngine):
    """It samples with new weights while they are still being proven."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self.loads = 0

    async def load_checkpoint(
        self, version: int, path: Path, mode: SwapMode, content: Content | None = None, prove: Prove | None = None
    ) -> float:
        self.loads += 1
        self._version = version
        self._swapped.set()
        self._swapped = asyncio.Event()
        await asyncio.Event().wait()
        return await super().load_checkpoint(version, path, mode, content, prove)


@pytest.mark.parametrize("begun_before", [False, True], ids=["sampled by it alone", "begun by the version before"])
async def test_a_result_of_a_version_that_was_not_proven_ends_the_worker_and_stays_in_it(
    redis_url: str, policy: str, queue: Queue, steps: Path, begun_before: bool
) -> None:
    settings = WorkerSettings(
        policy=policy, engine="stub", redis=redis_url, checkpoint_dir=steps, grace_s=0, stub_tokens_per_s=20
    )
    engine = Hasty(settings)
    worker = Worker(settings=settings, engine=engine)
    running = asyncio.create_task(worker.run())
    await until_true(lambda: worker.state == WorkerState.SERVING)
    async with AsyncClient(redis_url, policy=policy) as client:
        if begun_before:
            batch = await client.submit([[5]], config=GenerationConfig(max_new_tokens=20))
            await until_true(lambda: engine._places.running == 1)
        announce_step(queue, steps, 1, probe=stub_probe(1))
        await until_true(lambda: engine.loads == 1)
        if not begun_before:
            batch = await client.submit([[5]], config=GenerationConfig(max_new_tokens=1))

        await until_true(lambda: running.done() or queue.done(batch.batch_id))

        assert queue.done(batch.batch_id) == 0
        assert queue.redis.xlen(queue.keys.results(batch.batch_id)) == 0
        with pytest.raises(UnprovenError, match="sampled under version 1, which this worker has not proven"):
            await running
        assert len(queue.holders()) == 1, "the job is lost"


async def test_no_part_with_a_token_of_a_version_that_was_not_proven_leaves_a_worker(
    redis_url: str, policy: str, queue: Queue, steps: Path, trainer: AsyncClient
) -> None:
    pace: dict[str, Any] = {
        "keep_partials": 0.05,
        "stub_tokens_per_s": 200,
        "stub_vocab_size": 32_000,
        "checkpoint_dir": steps,
    }
    async with serving(redis_url, policy, Hasty, **pace) as worker:
        batch = await trainer.submit([[5], [6]], config=asked(3000, samples=1))
        key = queue.keys.parts(batch.batch_id)
        await until_true(lambda: worker._measures.parts["kept"] >= 2)
        announce_step(queue, steps, 1, probe=stub_probe(1))
        await until_true(lambda: worker._measures.parts["unproven"] >= 2)

        await drained(worker)

        kept: dict[bytes, bytes] = queue.redis.hgetall(key)  # type: ignore[assignment] # a client without types
        parts = [decode(value, Part) for name, value in kept.items() if name.count(b":") == 1]
        assert [version for part in parts for version, _ in part.version_spans] == [0, 0]
        assert worker._measures.tokens_generated > sum(map(len, parts)), "tokens of the failed version were sampled"
