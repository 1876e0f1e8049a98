"""A run that is forgotten lets go of its batches; one that a trainer has opened meanwhile is left as it is."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig, RunLostError
from rollstream.producer.run_errors import RunChangedError
from rollstream.producer.runs import scripts
from rollstream.producer.runs.read_runs import forget_run, read_run
from rollstream.schemas import Keys
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.times import RESULT_TTL_S

CONFIG = GenerationConfig(max_new_tokens=2)


async def test_a_run_that_was_opened_meanwhile_is_refused_and_keeps_its_results(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    keys = Keys(policy)
    async with trainer.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
        await handle.cancel()
    seen = await read_run(trainer._connection, keys, "exp")

    async with trainer.run("exp") as heir:
        with pytest.raises(RunChangedError, match="look again"):
            await forget_run(trainer._connection, keys, seen)
        assert await redis.hget(keys.ledger(handle.batch_id), LedgerField.KEEP) is not None
        assert await redis.ttl(keys.results(handle.batch_id)) > RESULT_TTL_S
        assert heir.counts.outstanding == 1


async def test_what_was_submitted_after_the_look_is_let_go_too(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    keys = Keys(policy)
    run = trainer.run("exp")
    await run.open()
    seen = await read_run(trainer._connection, keys, "exp")
    handle = await run.submit([[1]], None, CONFIG)
    await handle.cancel()

    await forget_run(trainer._connection, keys, seen)
    assert await redis.hget(keys.ledger(handle.batch_id), LedgerField.KEEP) is None
    assert await redis.ttl(keys.results(handle.batch_id)) <= RESULT_TTL_S
    with pytest.raises(RunLostError):
        await run.save_cursor(1)


async def test_a_lost_reply_lets_go_of_what_was_seen(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    keys = Keys(policy)
    async with trainer.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
        await handle.cancel()
    seen = await read_run(trainer._connection, keys, "exp")
    await scripts.forget(redis, keys, "exp", seen.token)

    await forget_run(trainer._connection, keys, seen)
    assert await redis.ttl(keys.results(handle.batch_id)) <= RESULT_TTL_S
