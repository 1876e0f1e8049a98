"""One trainer at a time: a trainer whose run was taken is told so at its next write, which writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, BatchConsumedError, GenerationConfig, RunLostError, RunTakenError, UnknownBatchError
from rollstream.producer.batches import submit_and_wait, submit_jobs
from rollstream.producer.policies import provable
from rollstream.producer.policies import publish_policy as publishing
from rollstream.producer.runs import scripts
from rollstream.producer.runs.run import Run
from rollstream.schemas import Keys
from rollstream.schemas.times import RESULT_TTL_S
from rollstream.transport.versions.scripts import activate as activate_script
from tests.support.faults import Queue

CONFIG = GenerationConfig(max_new_tokens=2)


@pytest.fixture
async def zombie(trainer: AsyncClient) -> Run:
    """A run with an outstanding batch and an announced version, that another trainer has taken."""
    run = trainer.run("exp")
    await run.open()
    await run.submit([[1]], None, CONFIG)
    return run


WRITES: dict[str, Callable[[Run, Path], Awaitable[Any]]] = {
    "submit": lambda run, _: run.submit([[2]], None, CONFIG),
    "submit again": lambda run, _: run.submit([[1]], None, CONFIG, batch_id=run.outstanding[0].batch_id),
    "consumed": lambda run, _: run.consumed(run.outstanding[0], cursor="late"),
    "dropped": lambda run, _: run.dropped(run.outstanding[0], cursor="late"),
    "save_cursor": lambda run, _: run.save_cursor("late"),
    "publish_policy": lambda run, folder: run.publish_policy(2, checkpoint=folder / "step-2"),
    "activate": lambda run, _: run.activate(1),
    "close": lambda run, _: run.close(),
}


async def everything(redis: Redis, keys: Keys) -> dict[bytes, bytes | None]:
    """All keys of a policy, as they are."""
    found: dict[bytes, bytes | None] = {}
    for pattern in (f"rs:{{{keys.policy}}}:*", f"rs:{{{keys.policy}:*}}:*"):
        async for key in redis.scan_iter(pattern, count=1000):
            found[key] = await redis.dump(key)
    return found


@pytest.mark.parametrize("write", WRITES)
async def test_a_trainer_whose_run_was_taken_is_told_by_whom_and_writes_nothing(
    trainer: AsyncClient, redis: Redis, policy: str, zombie: Run, models: Path, write: str
) -> None:
    await trainer.publish_policy(1, checkpoint=models / "step-1", activate="by_hand")
    async with trainer.run("exp") as run:
        before = await everything(redis, Keys(policy))
        told_by = r"taken by .+:\d+ at 20\d\d-.+ \(epoch 2, this trainer has epoch 1\)"
        with pytest.raises(RunTakenError, match=told_by) as told:
            await WRITES[write](zombie, models)

        assert await everything(redis, Keys(policy)) == before
        assert (told.value.own_epoch, told.value.epoch, told.value.run) == (1, 2, "exp")
        assert len(run.outstanding) == 1


async def test_the_end_of_its_block_tells_it_too(trainer: AsyncClient) -> None:
    with pytest.raises(RunTakenError):
        async with trainer.run("exp"):
            await trainer.run("exp").open()


async def test_an_error_of_the_block_is_not_hidden_by_that(trainer: AsyncClient) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with trainer.run("exp"):
            await trainer.run("exp").open()
            raise ZeroDivisionError


async def test_a_version_is_not_announced_by_a_trainer_that_loses_the_run_while_it_publishes(
    trainer: AsyncClient, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = provable.check_provable

    async def overtaken(*args: Any) -> None:
        await check(*args)
        await trainer.run("exp").open()

    monkeypatch.setattr(publishing, "check_provable", overtaken)
    run = trainer.run("exp")
    await run.open()
    with pytest.raises(RunTakenError):
        await run.publish_policy(1, checkpoint=models / "step-1")
    assert await trainer.announced_version() == 0


async def test_a_version_is_not_activated_by_a_trainer_that_loses_the_run_meanwhile(
    trainer: AsyncClient, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overtaken(*args: Any) -> Any:
        await trainer.run("exp").open()
        return await activate_script(*args)

    run = trainer.run("exp")
    await run.open()
    await run.publish_policy(1, checkpoint=models / "step-1", activate="by_hand")
    monkeypatch.setattr("rollstream.producer.policies.activation.activate_script", overtaken)
    with pytest.raises(RunTakenError):
        await run.activate(1)
    assert await trainer.newest_version() == 0


async def test_the_trainer_that_has_the_run_publishes_and_activates(trainer: AsyncClient, models: Path) -> None:
    async with trainer.run("exp") as run:
        await run.publish_policy(1, checkpoint=models / "step-1", activate="by_hand")
        await run.activate(1)
        assert await trainer.newest_version() == 1


async def test_publishing_outside_of_a_run_asks_nobody(trainer: AsyncClient, zombie: Run, models: Path) -> None:
    async with trainer.run("exp"):
        await trainer.publish_policy(1, checkpoint=models / "step-1")
        assert await trainer.newest_version() == 1


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The first submit, which stops between its intent and its jobs."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    thaw: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Frozen:
    enqueue, first = submit_jobs.enqueue, Frozen()

    async def freezing(*args: Any) -> bool:
        if not first.reached.is_set():
            first.reached.set()
            await first.thaw.wait()
        return await enqueue(*args)

    monkeypatch.setattr(submit_and_wait, "enqueue", freezing)
    return first


async def test_a_submit_that_froze_before_its_jobs_queues_the_batch_of_its_heir(
    trainer: AsyncClient, queue: Queue, frozen: Frozen
) -> None:
    run = trainer.run("exp")
    await run.open()
    late = asyncio.create_task(run.submit([[1], [2]], None, CONFIG))
    await frozen.reached.wait()

    async with trainer.run("exp") as heir:
        assert heir.counts.not_queued == 1
        handle = await heir.submit([[1], [2]], None, CONFIG)
        frozen.thaw.set()
        assert await late == handle
        assert len(queue.entries()) == 1
        assert (heir.counts.submitted, heir.counts.not_queued) == (1, 0)
        with pytest.raises(RunTakenError):
            await run.consumed(await late)


async def test_a_submit_that_froze_before_its_jobs_queues_nothing_once_its_heir_has_dropped_the_batch(
    trainer: AsyncClient, queue: Queue, redis: Redis, policy: str, frozen: Frozen
) -> None:
    run = trainer.run("exp")
    await run.open()
    late = asyncio.create_task(run.submit([[1], [2]], None, CONFIG))
    await frozen.reached.wait()

    async with trainer.run("exp") as heir:
        (left,) = heir.outstanding
        await heir.dropped(left)
        assert 0 < await redis.ttl(Keys(policy).ledger(left.batch_id)) <= RESULT_TTL_S
        frozen.thaw.set()
        with pytest.raises(BatchConsumedError):
            await late
        assert queue.entries() == []
        with pytest.raises(BatchConsumedError):
            await heir.dropped(left)
        assert (heir.counts.submitted, heir.counts.dropped) == (1, 1)
    with pytest.raises(UnknownBatchError):
        await trainer.attach(left.batch_id)


async def test_the_name_of_a_batch_that_was_dropped_before_it_was_queued_is_free_outside_of_runs(
    trainer: AsyncClient, redis: Redis, policy: str, frozen: Frozen
) -> None:
    run = trainer.run("exp")
    await run.open()
    late = asyncio.create_task(run.submit([[1]], None, CONFIG, batch_id="mine"))
    await frozen.reached.wait()
    late.cancel()
    await run.dropped(run.outstanding[0])

    handle = await trainer.submit([[1]], None, CONFIG, batch_id="mine")
    assert await redis.ttl(Keys(policy).ledger("mine")) == -1, "it stays until it is answered"
    await handle.cancel()


async def test_a_run_that_was_forgotten_is_lost_to_its_trainer_also_once_it_is_opened_again(
    trainer: AsyncClient, redis: Redis, policy: str, zombie: Run
) -> None:
    await redis.delete(Keys(policy).run("exp"))
    with pytest.raises(RunLostError, match="it is gone"):
        await zombie.save_cursor(1)

    async with trainer.run("exp") as run:
        assert run.epoch == 1
        with pytest.raises(RunTakenError):  # of the same epoch, and yet another opening
            await zombie.save_cursor(1)
        handle = await run.submit([[1]], None, CONFIG)
        assert handle.batch_id != zombie.outstanding[0].batch_id


async def test_a_run_that_a_failover_set_back_is_lost_to_its_trainer(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    async with trainer.run("exp"):
        pass
    key = Keys(policy).run("exp")
    old = await redis.dump(key)
    assert old is not None
    run = trainer.run("exp")
    await run.open()
    await redis.restore(key, 10_000, old, replace=True)

    with pytest.raises(RunLostError, match="with epoch 1, as it was before this trainer"):
        await run.save_cursor(1)


async def test_opening_twice_by_one_token_counts_once(trainer: AsyncClient, redis: Redis) -> None:
    run = trainer.run("exp")
    await run.open()
    opened = await scripts.open_run(redis, run._open.held, holder="x", stem="exp.0")
    assert (opened.state.epoch, opened.holder) == (1, "")
