"""A worker with too small a KV cache for its completions lets fewer in, says so, and answers all of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.schemas.hashes.worker_report import WorkerReport
from tests.support.engine.real_workers import START_TIMEOUT_S
from tests.support.faults import Queue
from tests.support.worker_process import WorkerProcess, until

pytestmark = [pytest.mark.vllm, pytest.mark.large]

SEATS, LENGTH = 16, 700
CACHE = 4 * 2**20
"""For four sequences of 1,024 tokens."""


def report(worker: WorkerProcess, queue: Queue) -> WorkerReport:
    names = cast("list[bytes]", queue.redis.zrange(queue.keys.workers(), 0, -1))
    mine = next(name.decode() for name in names if f"-{worker.process.pid}-".encode() in name)
    return WorkerReport.of(cast("dict[bytes, bytes]", queue.redis.hgetall(queue.keys.worker(mine))))


async def test_long_completions_get_fewer_places_until_nothing_runs(
    redis_url: str, policy: str, queue: Queue, tiny_model: Path
) -> None:
    flags = "--model", str(tiny_model), "--dtype", "float32", "--kv-cache-bytes", str(CACHE), "--admission", "memory"
    config = GenerationConfig(max_new_tokens=LENGTH, num_return_sequences=4, ignore_eos=True, logprobs="processed")
    seen: list[WorkerReport] = []
    worker = WorkerProcess(redis_url, policy, *flags, "--max-num-seqs", str(SEATS))
    try:
        worker.wait_until_serving(START_TIMEOUT_S)
        async with AsyncClient(redis_url, policy=policy) as client:
            batch = await client.submit([[5, number] for number in range(24)], None, config, prompts_per_job=2)
            running = asyncio.create_task(batch.result(timeout=500))
            while not running.done():
                seen.append(report(worker, queue))
                await asyncio.sleep(0.3)
            rollouts = await running

        async def is_idle() -> bool:
            told = report(worker, queue)
            return told.places == told.most_places and not told.kv_cache_use

        await until(is_idle)
        idle = report(worker, queue)
    finally:
        worker.end()

    assert rollouts.errors == {}
    assert rollouts.response_lengths.tolist() == [LENGTH] * 96
    assert idle.preemptions
    assert max(one.kv_cache_use or 0 for one in seen) > 0.9
    places = [one.places for one in seen if one.places is not None]
    assert places[0] == idle.most_places == 40
    assert min(places) < 30
