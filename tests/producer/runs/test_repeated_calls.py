"""A submit or a consumed whose caller stopped waiting at any of its writes may be called again."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, BatchConsumedError, GenerationConfig, RedisUnavailableError, RunCounts
from rollstream.producer.runs import scripts
from rollstream.producer.runs.run import Run
from rollstream.schemas import Keys
from rollstream.schemas.hashes.runs import RunField
from rollstream.transport.redis.scripts import Script
from tests.support.faults import Link

CONFIG = GenerationConfig(max_new_tokens=2, num_return_sequences=2)
PROMPTS = [[1], [2]]
SAMPLES = 4
NOT_QUEUED = RunCounts(submitted=1, consumed=0, dropped=0, outstanding=1, not_queued=1)
QUEUED = RunCounts(submitted=1, consumed=0, dropped=0, outstanding=1, not_queued=0)


async def given_up(
    link: Link, redis: Redis, script: Script, call: Coroutine[Any, Any, object], *, answered: bool = True
) -> None:
    """The caller stops waiting for this script's reply. `answered`: Redis has run it; else it never heard of it."""
    await redis.script_load(script.text)
    link.stopped.clear()
    link.stop_at(script.sha.encode(), answered=answered)
    calling = asyncio.create_task(call)
    assert await asyncio.to_thread(link.stopped.wait, 10)
    link.drop()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    link.restore()
    link.thaw()


async def submitted_in_redis(redis: Redis, policy: str) -> int:
    return int(await redis.hget(Keys(policy).run("exp"), RunField.SUBMITTED) or 0)


async def unavailable(link: Link, redis: Redis, run: Run, admitted: int | None) -> None:
    await redis.script_load(scripts.INTEND.text)
    link.lose_reply(to=scripts.INTEND.sha.encode())
    with pytest.raises(RedisUnavailableError):
        await run.submit(PROMPTS, None, CONFIG, admitted=admitted)


async def cancelled(link: Link, redis: Redis, run: Run, admitted: int | None) -> None:
    await given_up(link, redis, scripts.INTEND, run.submit(PROMPTS, None, CONFIG, admitted=admitted))


@pytest.mark.parametrize("lost", [cancelled, unavailable])
async def test_a_submit_whose_intent_was_written_is_the_same_batch_again(
    link: Link, redis: Redis, policy: str, lost: Any
) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=0) as client:
        async with client.run("exp") as run:
            admitted = run.gate(batch_samples=SAMPLES, max_staleness=0).try_admit(SAMPLES)
            await lost(link, redis, run, admitted)
            assert (run.counts, run.outstanding[0].is_queued) == (NOT_QUEUED, False)

            handle = await run.submit(PROMPTS, None, CONFIG, admitted=admitted)
            assert (run.counts, run.outstanding[0].handle) == (QUEUED, handle)
            assert await submitted_in_redis(redis, policy) == 1
            await run.consumed(handle)

        async with client.run("exp") as run:
            gate = run.gate(batch_samples=SAMPLES, max_staleness=0, version=1)
            assert (run.outstanding, gate.try_admit(SAMPLES)) == ((), 1)


@pytest.mark.parametrize("answered", [False, True], ids=["not written", "written"])
async def test_a_submit_of_which_nothing_is_known_can_be_dropped(
    link: Link, redis: Redis, policy: str, answered: bool
) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client, client.run("exp") as run:
        gate = run.gate(batch_samples=SAMPLES, max_staleness=0)
        submit = run.submit(PROMPTS, None, CONFIG, note="n", admitted=gate.try_admit(SAMPLES))
        await given_up(link, redis, scripts.INTEND, submit, answered=answered)
        (left,) = run.outstanding
        assert (left.note, left.admitted, left.samples, await submitted_in_redis(redis, policy)) == (
            "n", 0, SAMPLES, int(answered),
        )  # fmt: skip

        await run.dropped(left)
        assert (run.counts.dropped, run.counts.outstanding, gate.outstanding) == (1, 0, 0)
        assert await submitted_in_redis(redis, policy) == 1


async def test_a_consumed_that_was_given_up_after_its_write_is_called_again_and_moves_the_cursor(
    link: Link, redis: Redis, policy: str
) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client, client.run("exp") as run:
        handle = await run.submit(PROMPTS, None, CONFIG)
        await given_up(link, redis, scripts.RELEASE, run.consumed(handle, cursor="first"))
        await given_up(link, redis, scripts.SAVE, run.consumed(handle, cursor="second"))

        await run.consumed(handle, cursor="third")
        assert (run.cursor, run.counts.consumed, run.counts.outstanding) == ("third", 1, 0)
        with pytest.raises(BatchConsumedError):
            await run.consumed(handle, cursor="fourth")
