"""Workers and clients that were given Sentinels find a new primary within seconds, and what it lacks is done again."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream import AsyncClient, GenerationConfig
from rollstream.transport.redis.primary import failovers_of, primary_of
from rollstream.transport.redis.scripts import Script
from rollstream.worker.redis_io.connections import connect
from tests.support.sentinel.servers import Server, Watched
from tests.support.worker_process import until

FOUND_S = 8.0
"""Sentinels here notice after a second that a primary is away, and need one or two to promote another."""
CONFIG = GenerationConfig(max_new_tokens=4, num_return_sequences=1, seed=1)


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


async def test_a_batch_that_a_failover_lost_is_queued_again_and_answered(watched: Watched, policy: str) -> None:
    async with AsyncClient(watched.url, policy=policy) as client:
        await client.done(policy) if False else None
        kept = await client.submit([[1]], config=CONFIG)
        old = watched.primary
        replicas = [each for each in watched.servers if each is not old]
        for each in replicas:  # nothing that is written now reaches them
            each.ask("REPLICAOF", "NO", "ONE")
        lost = await client.submit([[2]], config=CONFIG)
        del kept, lost


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
