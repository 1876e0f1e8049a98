"""Steps of tests of kept completions: stub workers in this process, and the audit of what they went on from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from rollstream import BatchHandle, GenerationConfig, GroupResult
from rollstream.schemas.hashes.worker_report import WorkerState
from rollstream.transport.traces.names import Outcome
from rollstream.worker.app import Worker
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Engine
from rollstream.worker.engines.stub import StubEngine
from tests.support.engine.stub_rule import breaks_of, sample_seed
from tests.support.worker_process import until_true

VOCAB = 1000


@asynccontextmanager
async def serving(
    redis_url: str, policy: str, engine: Callable[[WorkerSettings], Engine] = StubEngine, **settings: Any
) -> AsyncIterator[Worker]:
    """A worker in this process, which serves. It ends without a word to Redis if it has not ended by itself."""
    chosen = {"stub_vocab_size": VOCAB, "grace_s": 0, "lease_s": 2, "keep_partials": 1000, **settings}
    made = WorkerSettings(policy=policy, redis=redis_url, engine="stub", **chosen)
    worker = Worker(settings=made, engine=engine(made))
    running = asyncio.create_task(worker.run())
    await until_true(lambda: running.done() or worker.state == WorkerState.SERVING)
    if running.done():
        await running
    try:
        yield worker
    finally:
        running.cancel()
        await asyncio.wait([running])


async def drained(worker: Worker) -> None:
    """Drain it as an operator does, and wait until its jobs are given back."""
    worker._begin_drain()
    await given_back(worker)


async def given_back(worker: Worker) -> None:
    await until_true(lambda: worker._measures.jobs[Outcome.GIVEN_BACK])


def so_far(worker: Worker) -> list[int]:
    """How many tokens each sample that runs here has."""
    running = worker._keeper._running.values()
    return [len(one.completion.token_ids) for group in running for one in group.samples.so_far()]


def asked(length: int = 100, samples: int = 2, **options: Any) -> GenerationConfig:
    chosen = {"num_return_sequences": samples, "seed": 3, "ignore_eos": True, **options}
    return GenerationConfig(max_new_tokens=length, **chosen)


def resumed_at(group: GroupResult) -> list[int]:
    """How many tokens of each completion earlier deliveries sampled."""
    return [0] * len(group) if group.resumed_at is None else group.resumed_at.tolist()


def check_drawn(groups: Iterable[GroupResult], seed: int = 3, vocab_size: int = VOCAB) -> list[list[int]]:
    """Each token is the stub's own under the seeds, in order; returns where each sample was gone on from.

    The versions are those that the spans say. The last of these places is what the result itself says, unless the
    sample had ended before: then it is the sample's length. A swap that aborts is such a place, too, and must come
    before the last delivery.
    """
    found: list[list[int]] = []
    for group in groups:
        for row, one in enumerate(group):
            own = sample_seed(seed, group.group, one.sample)
            breaks = breaks_of(group.prompt_ids, own, one.token_ids, vocab_size=vocab_size, spans=one.version_spans)
            assert breaks is not None, f"group {group.group} sample {one.sample}: tokens that no seed of it gives"
            last = resumed_at(group)[row]
            assert last in {len(one), breaks[-1] if breaks else 0}, f"resumed_at {last}, gone on from {breaks}"
            assert sum(tokens for _, tokens in one.version_spans) == len(one)
            found.append(breaks)
    return found


async def groups_of(batch: BatchHandle) -> list[GroupResult]:
    found = [group async for group in batch.groups(timeout=30)]
    results = [group for group in found if isinstance(group, GroupResult)]
    assert len(results) == len(found), found
    return sorted(results, key=lambda group: group.group)


async def at_least(worker: Worker, tokens: int, samples: int = 8) -> None:
    await until_true(lambda: sum(length >= tokens for length in so_far(worker)) == samples)
