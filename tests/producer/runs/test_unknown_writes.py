"""A write whose reply was lost, or whose caller stopped waiting: written or not, all that follows fits."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from rollstream import (
    AsyncClient,
    BatchConsumedError,
    GenerationConfig,
    RunLostError,
    StalenessGate,
)
from rollstream.producer.runs import scripts
from rollstream.producer.runs.run import Run
from rollstream.schemas import Keys
from rollstream.schemas.hashes.runs import RunField
from tests.support.faults import Link

CONFIG = GenerationConfig(max_new_tokens=2, num_return_sequences=2)
SAMPLES = 4
CALL = b"settled:"


def gate_of(run: Run) -> StalenessGate:
    return run.gate(batch_samples=SAMPLES, max_staleness=0)


async def told_nothing(link: Link, run: Run, cursor: object, *, written: bool) -> None:
    """The trainer consumes its first batch, and stops waiting for the reply."""
    if written:
        link.stop_at(CALL, answered=True)
    else:
        link.drop()
    consuming = asyncio.create_task(run.consumed(run.outstanding[0], cursor=cursor))
    await asyncio.sleep(0)  # until it waits for Redis
    if written:
        assert await asyncio.to_thread(link.stopped.wait, 10)
        link.drop()
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consuming
    link.restore()
    link.thaw()


@pytest.mark.parametrize("written", [False, True], ids=["not written", "written"])
async def test_the_gate_has_counted_what_is_consumed_and_nothing_else(link: Link, policy: str, written: bool) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client:
        with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
            async with client.run("exp") as run:
                await run.submit([[1], [2]], None, CONFIG, admitted=gate_of(run).try_admit(SAMPLES))
                await told_nothing(link, run, 1, written=written)
                raise KeyError

        async with client.run("exp") as run:
            gate = gate_of(run)
            assert (run.counts.consumed, run.cursor) == ((1, 1) if written else (0, None))
            assert (gate.counts.consumed, gate.outstanding) == ((SAMPLES, 0) if written else (0, SAMPLES))
            if not written:
                await run.consumed(run.outstanding[0], cursor=1)
            gate.advance(1)
            assert (gate.try_admit(SAMPLES), gate.try_admit(SAMPLES)) == (1, None)


@pytest.mark.parametrize("written", [False, True], ids=["not written", "written"])
async def test_a_second_try_consumes_once_and_moves_the_cursor(
    link: Link, redis: Redis, policy: str, written: bool
) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client, client.run("exp") as run:
        gate = gate_of(run)
        handle = await run.submit([[1], [2]], None, CONFIG, admitted=gate.try_admit(SAMPLES))
        await told_nothing(link, run, {"try": 1}, written=written)

        await run.consumed(handle, cursor={"try": 1})
        assert (run.cursor, run.cursor_version, run.counts.consumed, run.outstanding) == ({"try": 1}, 1, 1, ())
        assert (gate.counts.consumed, gate.outstanding) == (SAMPLES, 0)
        with pytest.raises(BatchConsumedError):
            await run.consumed(handle)

        await run.save_cursor({"try": 2})
        assert await redis.hget(Keys(policy).run("exp"), RunField.CURSOR_VERSION) == b"2"


async def test_a_second_try_with_another_cursor_moves_it_there(link: Link, policy: str) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client, client.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
        await told_nothing(link, run, "first", written=True)
        await run.consumed(handle, cursor="second")
        assert (run.cursor, run.cursor_version, run.counts.consumed) == ("second", 2, 1)


@pytest.mark.parametrize("written", [False, True], ids=["not written", "written"])
async def test_what_follows_it_knows_what_became_of_it(link: Link, policy: str, written: bool) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client, client.run("exp") as run:
        first, second = [await run.submit([[number]], None, CONFIG) for number in (1, 2)]
        await told_nothing(link, run, "first", written=written)

        await run.consumed(second, cursor="second")
        assert (run.cursor, run.cursor_version, run.counts.consumed) == ("second", 1 + written, 1 + written)
        await run.consumed(first)
        assert (run.cursor, run.counts.consumed) == ("second", 2)


async def test_one_that_arrives_after_the_next_is_not_written(link: Link, redis: Redis, policy: str) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client, client.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
        await told_nothing(link, run, "late", written=False)
        ((late, _),) = run._open._unknown.values()
        await run.save_cursor("next")

        arrived = await scripts.settle_batches(
            redis, run._open.held, [handle.batch_id], how=RunField.CONSUMED, saved=late
        )
        assert arrived.what == "other"
        await run.consumed(handle)
        assert (run.cursor, run.cursor_version, run.counts.consumed) == ("next", 1, 1)


async def test_a_run_that_was_set_back_behind_the_last_write_is_lost(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    run = trainer.run("exp")
    await run.open()
    key = Keys(policy).run("exp")
    old = await redis.dump(key)
    assert old is not None
    await run.save_cursor(1)
    await redis.restore(key, 10_000, old, replace=True)

    with pytest.raises(RunLostError, match="as it was before this trainer's last write"):
        await run.save_cursor(2)


async def test_a_cursor_that_is_assigned_while_a_batch_is_consumed_is_saved_next(trainer: AsyncClient) -> None:
    async with trainer.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
        run.cursor = "before"
        consuming = asyncio.create_task(run.consumed(handle))
        await asyncio.sleep(0)  # until it waits for Redis
        run.cursor = "meanwhile"
        await consuming
        assert (run.cursor, run.cursor_version) == ("meanwhile", 1)
    async with trainer.run("exp") as run:
        assert (run.cursor, run.cursor_version) == ("meanwhile", 2)
