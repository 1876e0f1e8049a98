"""A trainer's run: what a trainer that comes back finds of it, and that each batch is consumed once."""

from __future__ import annotations

import asyncio
import logging

import pytest
from redis.asyncio import Redis

from rollstream import (
    AsyncClient,
    BatchConflictError,
    BatchConsumedError,
    BatchHandle,
    BatchNotOutstandingError,
    Client,
    CursorError,
    GenerationConfig,
    PromptsError,
    RunCounts,
    RunNotOpenError,
)
from rollstream.producer.runs.run import Run
from rollstream.schemas import Keys
from tests.support.dying_trainers import DiedError, dies_before_queueing
from tests.support.faults import Link
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=2, num_return_sequences=3, seed=1)


async def killed(client: AsyncClient, *rows: list[list[int]], name: str = "exp") -> Run:
    """A run whose trainer has submitted these batches and was killed."""
    run = client.run(name)
    await run.open()
    for number, prompts in enumerate(rows):
        await run.submit(prompts, None, CONFIG, note={"step": number})
    return run


async def test_a_new_run_has_nothing(trainer: AsyncClient) -> None:
    async with trainer.run("exp") as run:
        assert (run.epoch, run.cursor, run.cursor_version, run.outstanding) == (1, None, 0, ())
        assert run.counts == RunCounts(submitted=0, consumed=0, dropped=0, outstanding=0, not_queued=0)


async def test_a_killed_trainer_finds_its_batches_in_order_with_its_notes_and_its_cursor(trainer: AsyncClient) -> None:
    before = await killed(trainer, [[1]], [[2]], [[3]])
    await before.consumed(before.outstanding[0], cursor={"step": 1, "rng": b"\x00\xff"})

    async with trainer.run("exp") as run:
        assert [(one.note, one.samples, one.is_queued) for one in run.outstanding] == [
            ({"step": 1}, 3, True),
            ({"step": 2}, 3, True),
        ]
        assert run.cursor == {"step": 1, "rng": b"\x00\xff"}
        assert run.counts == RunCounts(submitted=3, consumed=1, dropped=0, outstanding=2, not_queued=0)
        assert [one.handle.batch_id for one in run.outstanding] == [one.batch_id for one in before.outstanding]


async def test_what_is_left_is_read_and_consumed_once(trainer: AsyncClient, stub_worker: WorkerProcess) -> None:
    await killed(trainer, [[1], [2]], [[3]])

    async with trainer.run("exp") as run:
        for step, one in enumerate(run.outstanding):
            rollouts = await one.handle.result(timeout=20)
            await run.consumed(rollouts, cursor=step)
            with pytest.raises(BatchConsumedError):
                await run.consumed(rollouts)
        assert (run.outstanding, run.cursor, run.counts.consumed) == ((), 1, 2)


async def test_the_same_content_again_is_the_batch_that_was_left(trainer: AsyncClient) -> None:
    before = await killed(trainer, [[1]], [[2]])

    async with trainer.run("exp") as run:
        second = await run.submit([[2]], None, CONFIG)
        first = await run.submit([[1]], None, CONFIG)
        new = await run.submit([[1]], None, CONFIG)

        assert [first.batch_id, second.batch_id] == [one.batch_id for one in before.outstanding]
        assert new.batch_id not in {first.batch_id, second.batch_id}
        assert run.counts.submitted == 3


async def test_what_was_left_is_given_to_one_of_many_submits_at_once(trainer: AsyncClient) -> None:
    before = await killed(trainer, [[1]], [[1]])

    async with trainer.run("exp") as run:
        handles = await asyncio.gather(*(run.submit([[1]], None, CONFIG) for _ in range(3)))
        assert len({one.batch_id for one in handles}) == run.counts.submitted == 3
        assert {one.batch_id for one in before.outstanding} < {one.batch_id for one in handles}


async def test_of_equal_batches_that_were_left_the_queued_one_is_given_first(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    gone, queued = (await killed(trainer, [[1]], [[1]])).outstanding
    await redis.delete(Keys(policy).ledger(gone.batch_id))

    async with trainer.run("exp") as run:
        handles = [await run.submit([[1]], None, CONFIG) for _ in range(2)]
        assert [one.batch_id for one in handles] == [queued.batch_id, gone.batch_id]


async def test_what_was_left_is_still_left_after_a_submit_that_fails(
    trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await killed(trainer, [[1]])

    async with trainer.run("exp") as run:
        with monkeypatch.context() as dying:
            dies_before_queueing(dying)
            with pytest.raises(DiedError):
                await run.submit([[1]], None, CONFIG)
        again = await run.submit([[1]], None, CONFIG)
        assert [again.batch_id] == [one.batch_id for one in before.outstanding]


async def test_a_batch_whose_handle_was_asked_for_is_not_given_to_a_submit(trainer: AsyncClient) -> None:
    await killed(trainer, [[1]])

    async with trainer.run("exp") as run:
        left = run.outstanding[0].handle
        assert (await run.submit([[1]], None, CONFIG)).batch_id != left.batch_id


async def test_a_named_batch_is_submitted_again_by_its_name(trainer: AsyncClient) -> None:
    async with trainer.run("exp") as run:
        first = await run.submit([[1]], None, CONFIG, batch_id="step-1")
        assert await run.submit([[1]], None, CONFIG, batch_id="step-1") == first
        with pytest.raises(BatchConflictError):
            await run.submit([[2]], None, CONFIG, batch_id="step-1")
        assert run.counts.submitted == 1

        await run.consumed(first)
        with pytest.raises(BatchConsumedError):
            await run.submit([[1]], None, CONFIG, batch_id="step-1")
        assert run.outstanding == ()


async def test_a_consumed_batch_is_refused_by_a_later_trainer_too(trainer: AsyncClient) -> None:
    async with trainer.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG, batch_id="step-1")
        await run.consumed(handle)

    async with trainer.run("exp") as run:
        with pytest.raises(BatchConsumedError):
            await run.consumed(handle)
        with pytest.raises(BatchConsumedError):
            await run.submit([[1]], None, CONFIG, batch_id="step-1")
        assert run.counts == RunCounts(submitted=1, consumed=1, dropped=0, outstanding=0, not_queued=0)


async def test_a_batch_of_no_run_is_not_outstanding(trainer: AsyncClient) -> None:
    handle = await trainer.submit([[1]], None, CONFIG)
    async with trainer.run("exp") as run:
        with pytest.raises(BatchNotOutstandingError, match="never submitted through"):
            await run.consumed(handle)


async def test_what_cannot_be_submitted_leaves_no_intent(trainer: AsyncClient) -> None:
    async with trainer.run("exp") as run:
        with pytest.raises(PromptsError):
            await run.submit([[1]], None, CONFIG, prompts_per_job=0)
        assert run.counts.submitted == 0


async def test_a_submit_that_redis_refuses_leaves_no_intent(trainer: AsyncClient) -> None:
    await trainer.submit([[1]], None, CONFIG, batch_id="mine")
    async with trainer.run("exp") as run:
        with pytest.raises(BatchConflictError):
            await run.submit([[2]], None, CONFIG, batch_id="mine")
        assert run.counts.submitted == 0
    async with trainer.run("exp") as run:
        assert run.outstanding == ()


async def test_a_cursor_that_is_assigned_is_saved_with_the_next_batch_or_at_the_end(trainer: AsyncClient) -> None:
    async with trainer.run("exp") as run:
        run.cursor = [1]
        assert run.cursor == [1]
        await run.consumed(await run.submit([[1]], None, CONFIG))
        assert run.cursor_version == 1
        run.cursor = [2]
    async with trainer.run("exp") as run:
        assert (run.cursor, run.cursor_version) == ([2], 2)
        await run.save_cursor([3])
        assert (run.cursor, run.cursor_version) == ([3], 3)


async def test_a_cursor_is_not_saved_where_the_block_ends_by_an_error(trainer: AsyncClient) -> None:
    with pytest.raises(DiedError):  # noqa: PT012 - the block is what is tested
        async with trainer.run("exp") as run:
            run.cursor = "half done"
            raise DiedError
    async with trainer.run("exp") as run:
        assert run.cursor is None


@pytest.mark.parametrize("cursor", [b"x" * 65_536, {"a": object()}, {1, 2, object()}, 2**70], ids=range(4))
async def test_a_cursor_that_cannot_be_kept_is_refused_and_nothing_is_consumed(
    trainer: AsyncClient, cursor: object
) -> None:
    async with trainer.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
        with pytest.raises(CursorError, match="cursor: "):
            await run.consumed(handle, cursor=cursor)
        with pytest.raises(CursorError, match="cursor: "):
            run.cursor = cursor
        assert (run.counts.consumed, run.cursor) == (0, None)


async def test_a_note_that_is_too_large_is_refused(trainer: AsyncClient) -> None:
    async with trainer.run("exp") as run:
        with pytest.raises(CursorError, match=r"note: .*4096"):
            await run.submit([[1]], None, CONFIG, note="x" * 5000)
        assert run.outstanding == ()


async def test_a_lost_reply_consumes_once(link: Link, policy: str) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client, client.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
        link.lose_reply(to=b"settled:")
        await run.consumed(handle, cursor=7)
        assert link.lost == 1
        assert (run.counts.consumed, run.cursor, run.cursor_version) == (1, 7, 1)


async def test_a_lost_reply_submits_and_opens_once(link: Link, policy: str) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client:
        link.lose_reply(to=b":runs")
        async with client.run("exp") as run:
            assert (link.lost, run.epoch) == (1, 1)
            link.lose_reply(to=b"outstanding:")
            await run.submit([[1]], None, CONFIG)
            assert (link.lost, run.counts.submitted) == (2, 1)
        async with client.run("exp") as run:
            assert (run.epoch, len(run.outstanding), run.counts.submitted) == (2, 1, 1)


async def test_many_submits_at_once_have_names_of_their_own(trainer: AsyncClient) -> None:
    async with trainer.run("exp") as run:
        handles: list[BatchHandle] = await asyncio.gather(*(run.submit([[1]], None, CONFIG) for _ in range(20)))
        assert len({one.batch_id for one in handles}) == 20
        await asyncio.gather(*(run.consumed(one) for one in handles))
        assert run.counts.consumed == 20


async def test_a_run_is_used_inside_of_its_block(trainer: AsyncClient) -> None:
    run = trainer.run("exp")
    with pytest.raises(RunNotOpenError, match="not open yet"):
        await run.submit([[1]], None, CONFIG)
    async with run:
        pass
    with pytest.raises(RunNotOpenError, match="is closed"):
        await run.save_cursor(1)


async def test_who_opens_a_run_that_was_not_closed_is_told_whose_it_was(
    trainer: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with trainer.run("exp"):
        pass
    with caplog.at_level(logging.WARNING, "rollstream"):
        await killed(trainer)
        assert caplog.text == ""
        async with trainer.run("exp"):
            assert "run exp was held by" in caplog.text


def test_a_blocking_run_does_the_same(client: Client) -> None:
    with client.run("exp") as run:
        handle = run.submit([[1]], None, CONFIG, note=1)
        assert [one.handle for one in run.outstanding] == [handle]
        run.cursor = {"step": 1}
        run.consumed(handle)
        assert (run.name, run.epoch, run.cursor, run.cursor_version) == ("exp", 1, {"step": 1}, 1)
        assert run.counts.consumed == 1
        gate = run.gate(batch_samples=3, max_staleness=0)
        assert gate.try_admit(3) == 0
    with client.run("exp") as run:
        assert (run.epoch, run.cursor, run.outstanding) == (2, {"step": 1}, ())
