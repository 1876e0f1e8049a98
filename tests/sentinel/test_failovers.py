"""Workers and clients that were given Sentinels find a new primary within seconds, and what it lacks is done again."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream import AsyncClient, GenerationConfig, UnconfirmedSubmitError, UnknownBatchError
from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP
from rollstream.transport.redis.primary import failovers_of, primary_of
from rollstream.transport.redis.scripts import Script
from rollstream.worker.redis_io.connections import connect
from tests.support.sentinel.servers import Server, Watched
from tests.support.stub_workers import serving
from tests.support.worker_process import until, until_true

FOUND_S = 10.0
"""Sentinels here notice after two seconds that a primary is away, and need one or two to promote another."""
CONFIG = GenerationConfig(max_new_tokens=4, num_return_sequences=1, seed=1)


@pytest.mark.large
async def test_a_primary_that_stands_still_is_left_and_not_believed_when_it_wakes(watched: Watched) -> None:
    old, script = watched.primary, Script(name="count", text="return redis.call('INCR', KEYS[1])")
    async with connect(watched.url) as redis:
        await script(["n"], []).to(redis)
        reading = asyncio.ensure_future(redis.xread({"s": "$"}, block=20_000))
        old.freeze()
        began = time.monotonic()

        await until(lambda: _counted(script, redis), FOUND_S)

        assert time.monotonic() - began < FOUND_S
        with pytest.raises(RedisError):  # a blocking read is not left behind either
            await reading
        old.thaw()
        await until(lambda: _is_replica(old))
        assert await script(["n"], []).to(redis) >= 2
        assert failovers_of(redis) == 1
        primary = primary_of(redis)
        assert primary is not None
        assert primary.address[1] == watched.primary.port != old.port


@pytest.mark.large
async def test_writes_to_a_primary_that_was_replaced_end_within_a_second(watched: Watched) -> None:
    async with connect(watched.url) as redis:
        await redis.set("a", 1)
        old = watched.primary
        new = await asyncio.to_thread(watched.fail_over)
        await until(lambda: _follows(redis, new), FOUND_S)

        await redis.set("b", 1)

        assert new.ask("GET", "b") == b"1"
        assert old.facts()["role"] == "master", "it is not demoted yet, which is what this test is about"
        assert old.ask("GET", "b") is None


@pytest.mark.large
async def test_a_batch_that_was_lost_where_it_is_only_attached_is_named_at_once(watched: Watched, policy: str) -> None:
    async with AsyncClient(watched.url, policy=policy) as client, AsyncClient(watched.url, policy=policy) as other:
        with watched.replication_stopped():
            attached = await other.attach((await client.submit([[1]], config=CONFIG)).batch_id)
            watched.primary.kill()

        with pytest.raises(UnknownBatchError, match="submit it again"):
            await attached.wait(timeout=30)


async def test_a_submission_without_replicas_to_confirm_it_is_refused_by_name_and_may_be_repeated(
    watched: Watched, policy: str
) -> None:
    async with AsyncClient(watched.url, policy=policy, redis_wait=1, reconnect_s=0.5) as client:
        with watched.replicas_frozen():
            began = time.monotonic()
            with pytest.raises(UnconfirmedSubmitError, match=r"0 of 1 replicas.*batch_id='b'.*doubles nothing"):
                await client.submit([[1]], config=CONFIG, batch_id="b")
            assert time.monotonic() - began < 5
            async with AsyncClient(watched.url, policy=policy, redis_wait=1, reconnect_s=0.5) as other:
                with pytest.raises(UnconfirmedSubmitError):  # what is there already is not taken for confirmed
                    await other.submit([[1]], config=CONFIG, batch_id="b")
        handle = await client.submit([[1]], config=CONFIG, batch_id="b")

        assert await handle.done() == 0
        assert watched.primary.ask("XLEN", Keys(policy).jobs(0)) == 1


@pytest.mark.large
async def test_an_answer_waits_for_its_replica_and_is_not_published_twice(watched: Watched, policy: str) -> None:
    async with AsyncClient(watched.url, policy=policy) as client:
        with serving(watched.url, policy, "--redis-wait", "1") as (worker,):
            await (await client.submit([[1]], config=CONFIG)).wait(timeout=30)
            with watched.replication_stopped():
                handle = await client.submit([[2]], config=CONFIG)
                await until_true(lambda: "replicas do not have what was written" in worker.log, 20)
            await handle.wait(timeout=30)
            await until_true(lambda: watched.primary.ask("XPENDING", Keys(policy).jobs(0), GROUP)["pending"] == 0)

    assert worker.log.count("replicas do not have what was written") == 1
    rows = watched.primary.ask("XRANGE", Keys(policy).results(handle.batch_id), "-", "+")
    assert len(rows) == 2, "one answer and the seal"


async def test_a_batch_that_a_failover_lost_is_queued_again_and_answered(watched: Watched, policy: str) -> None:
    async with AsyncClient(watched.url, policy=policy) as client:
        with watched.replication_stopped():
            handle = await client.submit([[1], [2]], config=CONFIG, prompts_per_job=1)
            watched.primary.kill()
        with serving(watched.url, policy):
            answers = await handle.wait(timeout=30)

    assert sorted(answers) == [0, 1]


async def _counted(script: Script, redis: Redis) -> bool:
    try:
        await script(["n"], []).to(redis)
    except RedisError:
        return False
    return True


async def _is_replica(server: Server) -> bool:
    return (await asyncio.to_thread(server.facts)).get("role") == "slave"


async def _follows(redis: Redis, new: Server) -> bool:
    await redis.ping()
    primary = primary_of(redis)
    return primary is not None and primary.address[1] == new.port
