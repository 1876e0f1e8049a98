"""How long things of a run stay: results until they are consumed, and all of it no longer than the retention."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream import ArgumentError, AsyncClient, GenerationConfig, NameRefusedError
from rollstream.producer.runs import scripts
from rollstream.schemas import Keys
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.hashes.runs import RunField
from rollstream.schemas.times import RESULT_TTL_S, RUN_RETENTION_S
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=2)


async def times_of(redis: Redis, keys: Keys, batch_id: str) -> set[int]:
    """The TTLs of a batch's results and ledger, without the seconds that have passed since."""
    found = [await redis.ttl(keys.results(batch_id)), await redis.ttl(keys.ledger(batch_id))]
    usual = (RESULT_TTL_S, RUN_RETENTION_S)
    return {next((whole for whole in usual if whole - 60 < one <= whole), one) for one in found}


async def test_results_stay_until_they_are_consumed(
    trainer: AsyncClient, redis: Redis, policy: str, stub_worker: WorkerProcess
) -> None:
    keys = Keys(policy)
    async with trainer.run("exp") as run:
        handle = await run.submit([[1], [2]], None, CONFIG)
        await handle.result(timeout=20)
        assert await times_of(redis, keys, handle.batch_id) == {RUN_RETENTION_S}

        await run.consumed(handle)
        assert await times_of(redis, keys, handle.batch_id) == {RESULT_TTL_S}


async def test_so_do_those_of_a_cancelled_batch(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    async with trainer.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
        await handle.cancel()
        assert await times_of(redis, Keys(policy), handle.batch_id) == {RUN_RETENTION_S}
        await run.dropped(handle)
        assert await times_of(redis, Keys(policy), handle.batch_id) == {RESULT_TTL_S}


async def test_so_do_those_of_a_batch_whose_last_groups_were_cut(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    async with trainer.run("exp") as run:
        handle = await run.submit([[1], [2]], None, CONFIG)
        await handle.cancel(groups=[0, 1])
        assert await times_of(redis, Keys(policy), handle.batch_id) == {RUN_RETENTION_S}


async def test_a_batch_that_is_consumed_before_its_last_answer_expires_as_usual(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    async with trainer.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
        await run.consumed(handle)
        await handle.cancel()
        assert await times_of(redis, Keys(policy), handle.batch_id) == {RESULT_TTL_S}


async def test_batches_of_no_run_expire_as_usual(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    handle = await trainer.submit([[1]], None, CONFIG)
    await handle.cancel()
    assert await times_of(redis, Keys(policy), handle.batch_id) == {RESULT_TTL_S}


async def test_a_batch_that_was_submitted_outside_stays_once_a_run_has_it(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    handle = await trainer.submit([[1], [2]], None, CONFIG, batch_id="mine")
    async with trainer.run("exp") as run:
        await run.submit([[1], [2]], None, CONFIG, batch_id="mine")
        await handle.cancel()
        assert await times_of(redis, Keys(policy), "mine") == {RUN_RETENTION_S}


async def test_opening_again_begins_the_time_afresh(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    keys = Keys(policy)
    async with trainer.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
        await handle.cancel()
    for key in (keys.ledger(handle.batch_id), keys.results(handle.batch_id)):
        await redis.expire(key, 100)

    async with trainer.run("exp"):
        assert await times_of(redis, keys, handle.batch_id) == {RUN_RETENTION_S}


@pytest.mark.parametrize("keep", [b"", b"-1", b"1e99", b"9" * 30, b"\xff", b"60"])
async def test_a_ledger_that_names_no_time_or_a_short_one_expires_as_usual(
    trainer: AsyncClient, redis: Redis, policy: str, keep: bytes
) -> None:
    handle = await trainer.submit([[1]], None, CONFIG)
    await redis.hset(Keys(policy).ledger(handle.batch_id), LedgerField.KEEP, keep)
    await handle.cancel()
    assert await times_of(redis, Keys(policy), handle.batch_id) == {RESULT_TTL_S}


async def test_the_run_and_its_index_have_the_retention_after_each_write(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    keys = Keys(policy)
    async with trainer.run("exp", retention_s=3600) as run:
        for write in (lambda: run.save_cursor(1), lambda: run.submit([[1]], None, CONFIG)):
            await redis.expire(keys.run("exp"), 10)
            await redis.expire(keys.runs(), 10)
            await write()
            assert 3590 < await redis.ttl(keys.run("exp")) <= 3600
            assert 3590 < await redis.ttl(keys.runs()) <= 3600
        (left,) = run.outstanding
        await left.handle.cancel()
    async with trainer.run("long"):
        assert await redis.ttl(keys.runs()) > 3600
    async with trainer.run("exp", retention_s=60):
        assert await redis.ttl(keys.runs()) > 3600


async def test_results_that_could_not_be_released_are_at_the_next_call(
    redis_url: str, policy: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_args: Any, **_named: Any) -> bool:
        raise ConnectionError

    keys = Keys(policy)
    async with AsyncClient(redis_url, policy=policy, reconnect_s=0.1) as client, client.run("exp") as run:
        first, second = [await run.submit([[number]], None, CONFIG) for number in (1, 2)]
        for one in (first, second):
            await one.cancel()
        with monkeypatch.context() as outage:
            outage.setattr(scripts, "release", away)
            await run.consumed(first)
        assert await times_of(redis, keys, first.batch_id) == {RUN_RETENTION_S}

        await run.consumed(second)
        assert await times_of(redis, keys, first.batch_id) == {RESULT_TTL_S}


async def test_a_batch_whose_release_is_refused_holds_up_no_other(
    trainer: AsyncClient, redis: Redis, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = scripts.release

    async def refusing(to: Redis, keys: Keys, batch_id: str, consumer: str) -> bool:
        if batch_id == first.batch_id:
            raise ResponseError("ERR no")
        return await release(to, keys, batch_id, consumer)

    async with trainer.run("exp") as run:
        first, second = [await run.submit([[number]], None, CONFIG) for number in (1, 2)]
        for one in (first, second):
            await one.cancel()
        with monkeypatch.context() as refusal:
            refusal.setattr(scripts, "release", refusing)
            await run.consumed(first)
            await run.consumed(second)
        assert await times_of(redis, Keys(policy), first.batch_id) == {RUN_RETENTION_S}
        assert await times_of(redis, Keys(policy), second.batch_id) == {RESULT_TTL_S}


async def test_a_trainer_that_died_before_it_released_results_is_followed_by_one_that_does(
    trainer: AsyncClient, redis: Redis, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(policy)
    run = trainer.run("exp")
    await run.open()
    handle = await run.submit([[1]], None, CONFIG)
    await handle.cancel()

    async def die() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(run._open, "release", die)
    with pytest.raises(ZeroDivisionError):
        await run.consumed(handle, cursor=1)

    async with trainer.run("exp") as heir:
        assert (heir.cursor, heir.outstanding) == (1, ())
        assert await times_of(redis, keys, handle.batch_id) == {RESULT_TTL_S}
    async with trainer.run("exp"):
        pass
    assert not await redis.hexists(keys.run("exp"), RunField.settled(handle.batch_id))


@pytest.mark.parametrize("seconds", [0, 59, -1, 1e12, "day", None, True, float("nan")])
def test_a_retention_that_is_none_is_refused(trainer: AsyncClient, seconds: Any) -> None:
    with pytest.raises(ArgumentError, match="retention_s"):
        trainer.run("exp", retention_s=seconds)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "../x", "x" * 91, None, b"x", "{p}"])
def test_a_name_that_is_none_is_refused(trainer: AsyncClient, name: Any) -> None:
    with pytest.raises(NameRefusedError, match="run"):
        trainer.run(name)
