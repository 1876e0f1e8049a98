"""Rollstream: `python -m benchmarks.peers.with_rollstream client`; its worker is `python -m rollstream.worker --engine
stub`."""

from __future__ import annotations

import asyncio
import os
import sys

from benchmarks.peers.arms import POLICY
from benchmarks.peers.serving import REDIS, each, obey
from rollstream import AsyncClient, BatchHandle
from rollstream.schemas import GenerationConfig, RollstreamError
from rollstream.transport.traces.application import traces_of

CONFIG = GenerationConfig(max_new_tokens=1, ignore_eos=True, logprobs=None)
BATCH, PROMPTS_PER_JOB = (int(os.environ.get(f"QUEUE_BENCH_{name}", "1")) for name in ("BATCH", "PROMPTS_PER_JOB"))


class RollstreamClient:
    """See `serving.Client`. A no-op is a prompt of one token and a completion of one token."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._batches: list[BatchHandle] = []

    async def enqueue(self, jobs: int) -> None:
        """See `serving.Client`. Submits batches of BATCH prompts."""
        sizes = [min(BATCH, jobs - first) for first in range(0, jobs, BATCH)]
        self._batches += await each(sizes, self._submit)

    async def results(self) -> int:
        """See `serving.Client`."""
        batches, self._batches = self._batches, []
        return sum(await each(batches, self._read))

    async def _submit(self, size: int) -> BatchHandle:
        return await self._client.submit([[7]] * size, None, CONFIG, prompts_per_job=PROMPTS_PER_JOB)

    async def _read(self, batch: BatchHandle) -> int:
        answers = await batch.wait(timeout=300)
        if any(answer.kind != "group" for answer in answers.values()):
            raise RollstreamError(f"{batch} has errors")
        return len(answers)


async def _client() -> None:
    traces = traces_of(os.environ, service="queue-bench", tell=sys.stderr.write, shared=True)
    wait = int(os.environ.get("ROLLSTREAM_REDIS_WAIT", "0"))
    async with AsyncClient(REDIS, policy=POLICY, redis_wait=wait) as client:
        await obey(RollstreamClient(client))
    await traces.aclose()


if __name__ == "__main__":
    asyncio.run(_client())
