"""What a run says of batches that its trainer did not come to queue, or queued in part."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream import (
    AsyncClient,
    GenerationConfig,
    NotQueuedError,
    RunCounts,
)
from rollstream.producer.batches import submit_jobs
from tests.support.dying_trainers import DiedError, dies_before_queueing

CONFIG = GenerationConfig(max_new_tokens=2, num_return_sequences=3, seed=1)


async def died_before_queueing(trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer wrote that it would submit a batch, and died before the batch was queued."""
    run = trainer.run("exp")
    await run.open()
    with monkeypatch.context() as dying:
        dies_before_queueing(dying)
        with pytest.raises(DiedError):
            await run.submit([[1]], None, CONFIG, note="first")


async def test_an_intent_without_a_batch_says_so_and_is_submitted_again(
    trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await died_before_queueing(trainer, monkeypatch)

    async with trainer.run("exp") as again:
        (left,) = again.outstanding
        assert (left.is_queued, left.note, again.counts.not_queued) == (False, "first", 1)
        with pytest.raises(NotQueuedError, match="was never queued") as refused:
            _ = left.handle
        assert refused.value.batch_id == left.batch_id

        handle = await again.submit([[1]], None, CONFIG, batch_id=left.batch_id)
        assert again.outstanding[0].handle == handle
        assert again.counts == RunCounts(submitted=1, consumed=0, dropped=0, outstanding=1, not_queued=0)


async def test_a_batch_that_was_queued_in_part_is_completed(
    trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollstream.producer.batches.submission._CHUNK_JOBS", 1)
    queue_once = submit_jobs._queue_once

    async def one_chunk(connection: Any, keys: Any, submission: Any, chunks: Any) -> int:
        await queue_once(connection, keys, submission, chunks[:1])
        raise DiedError

    run = trainer.run("exp")
    await run.open()
    with monkeypatch.context() as dying:
        dying.setattr(submit_jobs, "_queue_once", one_chunk)
        with pytest.raises(DiedError):
            await run.submit([[1], [2]], None, CONFIG, prompts_per_job=1)

    async with trainer.run("exp") as again:
        (left,) = again.outstanding
        assert "queued in part: 1 of 2 prompts" in left.missing
        await again.submit([[1], [2]], None, CONFIG, prompts_per_job=1)
        assert again.counts == RunCounts(submitted=1, consumed=0, dropped=0, outstanding=1, not_queued=0)


async def test_a_batch_that_cannot_be_made_again_is_dropped(
    trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await died_before_queueing(trainer, monkeypatch)

    async with trainer.run("exp") as again:
        await again.dropped(again.outstanding[0])
        assert again.counts == RunCounts(submitted=1, consumed=0, dropped=1, outstanding=0, not_queued=0)
