"""Rows that are scored through a run: outstanding until they are consumed, once, by the trainer that has the run."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from rollstream import (
    AsyncClient,
    BatchConflictError,
    BatchConsumedError,
    BatchHandle,
    Client,
    GenerationConfig,
    NotQueuedError,
    RunCounts,
    RunTakenError,
    ScoreHandle,
)
from rollstream.producer.blocking_client import BlockingScoreHandle
from rollstream.schemas import Keys
from rollstream.schemas.times import RESULT_TTL_S
from tests.support.dying_trainers import DiedError, dies_before_queueing
from tests.support.worker_process import WorkerProcess

ROWS = [[5, 6, 7], [8, 9]]
CONFIG = GenerationConfig(max_new_tokens=2, seed=1)


async def test_scores_of_a_killed_trainer_are_found_read_and_consumed_once(
    trainer: AsyncClient, stub_worker: WorkerProcess
) -> None:
    before = trainer.run("exp")
    await before.open()
    await before.submit([[1]], None, CONFIG)
    await before.submit_scores(ROWS, note={"step": 3})

    async with trainer.run("exp") as run:
        prompts, rows = run.outstanding
        assert (rows.note, rows.samples, rows.admitted, rows.is_queued) == ({"step": 3}, 2, None, True)
        assert (type(prompts.handle), type(rows.handle)) == (BatchHandle, ScoreHandle)
        scores = await rows.handle.result(timeout=20)
        await run.consumed([prompts, scores], cursor=4)

        assert (scores.errors, len(scores)) == ({}, 2)
        assert run.counts == RunCounts(submitted=2, consumed=2, dropped=0, outstanding=0, not_queued=0)
        with pytest.raises(BatchConsumedError):
            await run.consumed(scores)
        with pytest.raises(BatchConsumedError):
            await run.submit_scores(ROWS, batch_id=scores.batch_id)


async def test_the_same_rows_again_are_the_batch_that_was_left_and_others_are_not(trainer: AsyncClient) -> None:
    before = trainer.run("exp")
    await before.open()
    left = await before.submit_scores(ROWS)

    async with trainer.run("exp") as run:
        other = await run.submit_scores(ROWS, top_logprobs=1)
        again = await run.submit_scores(ROWS)
        assert (again, other.batch_id != left.batch_id) == (left, True)
        with pytest.raises(BatchConflictError):
            await run.submit([[5, 6, 7]], None, CONFIG, batch_id=left.batch_id)


async def test_scores_whose_trainer_died_before_they_were_queued_are_submitted_again(
    trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trainer.run("exp")
    await before.open()
    with monkeypatch.context() as dying:
        dies_before_queueing(dying)
        with pytest.raises(DiedError):
            await before.submit_scores(ROWS, note=1)

    async with trainer.run("exp") as run:
        (left,) = run.outstanding
        with pytest.raises(NotQueuedError, match="the same prompts or rows again"):
            _ = left.handle
        handle = await run.submit_scores(ROWS, batch_id=left.batch_id)
        assert (run.outstanding[0].handle, run.counts.not_queued) == (handle, 0)


async def test_a_trainer_that_lost_the_run_queues_no_scores(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    before = trainer.run("exp")
    await before.open()
    async with trainer.run("exp"):
        with pytest.raises(RunTakenError):
            await before.submit_scores(ROWS)

    assert await redis.xlen(Keys(policy).jobs(0)) == 0


async def test_scores_stay_until_they_are_consumed(
    trainer: AsyncClient, stub_worker: WorkerProcess, redis: Redis, policy: str
) -> None:
    async with trainer.run("exp", retention_s=10 * RESULT_TTL_S) as run:
        handle = await run.submit_scores(ROWS)
        scores = await handle.result(timeout=20)
        key = Keys(policy).results(handle.batch_id)
        assert await redis.ttl(key) > RESULT_TTL_S
        await run.consumed(scores)
        assert 0 < await redis.ttl(key) <= RESULT_TTL_S


def test_a_blocking_trainer_finds_its_scores_too(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client:
        client.run("exp").open()
        with client.run("exp") as before:
            handle = before.submit_scores(ROWS)
        with client.run("exp") as run:
            (left,) = run.outstanding
            assert type(left.handle) is BlockingScoreHandle
            assert left.handle == handle
            run.dropped(left)
