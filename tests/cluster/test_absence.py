"""The cluster client while a node is away or silent: its own keys fail, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from rollstream.producer.demo.local_cluster import ClusterNode, LocalCluster
from rollstream.transport.redis import nodes_of
from rollstream.transport.redis.scripts import Script
from tests.support.cluster.cluster_steps import give, impatient
from tests.support.worker_process import until, until_true


@pytest.fixture
async def redis(cluster: LocalCluster) -> AsyncIterator[Redis]:
    client = impatient(cluster)
    yield client
    await client.aclose()


async def test_a_script_is_loaded_where_it_is_missing_while_another_node_is_away(
    redis: Redis, cluster: LocalCluster
) -> None:
    lost, there = cluster.nodes[0], next(key for key in "mnopqrst" if cluster.node_of(key) is cluster.nodes[2])
    script = Script(name="test", text="return redis.call('INCR', KEYS[1])")
    await redis.ping()
    lost.kill()
    try:
        cluster.nodes[2].ask("SCRIPT", "FLUSH")
        counted = [await script([there], []).to(redis) for _ in range(2)]
    finally:
        lost.start()
        cluster.wait_until_whole()

    assert counted == [1, 2]


async def test_a_node_that_is_away_fails_its_own_keys_alone(redis: Redis, cluster: LocalCluster) -> None:
    lost = cluster.nodes[0]  # the first that is asked
    gone, here = (next(key for key in "abcdefgh" if (cluster.node_of(key) is lost) is away) for away in (True, False))
    reading: Any = redis.xread({here: "$"}, block=20_000)
    standing: asyncio.Task[Any] = asyncio.create_task(reading)
    await until(lambda: _is_blocked(cluster.node_of(here)))
    lost.kill()
    try:
        with pytest.raises(RedisConnectionError):
            await redis.get(gone)
        async with redis.pipeline(transaction=False) as pipe:
            pipe.get(gone)
            pipe.type(here)
            replies = await pipe.execute(raise_on_error=False)
        assert len(await nodes_of(redis)) == 3
        async with impatient(cluster) as newcomer:
            assert await newcomer.ping()
        await redis.xadd(here, {"field": "value"})
        read: Any = await standing
    finally:
        lost.start()
        cluster.wait_until_whole()

    assert isinstance(replies[0], RedisError)
    assert not isinstance(replies[1], RedisError)
    assert len(read[0][1]) == 1, "a standing read was cut for another node's sake"
    await until(lambda: _answers(redis, gone))


async def test_what_was_not_answered_in_time_is_not_sent_again(cluster: LocalCluster) -> None:
    hasty, node = impatient(cluster, socket_timeout=0.5), cluster.node_of("once")
    async with hasty:
        await hasty.get("once")  # connects
        first = _ports_to(node)
        node.freeze()
        # A second try would find it awake.
        thawing = asyncio.create_task(_thaw(node, lambda: not first & _ports_to(node)))
        with pytest.raises(RedisError):
            await hasty.incr("once")
        await thawing
        await until(lambda: _is_there(hasty, "once"))

        assert await hasty.get("once") == b"1"


async def test_the_slots_of_a_node_that_is_away_are_found_where_they_went(redis: Redis, cluster: LocalCluster) -> None:
    lost, heir, third = cluster.nodes
    key = next(key for key in ("to-be-lost", *"abcdefgh") if cluster.node_of(key) is lost)
    await redis.get(key)
    lost.kill()
    try:
        give(key, heir, (heir, third))
        with pytest.raises(RedisConnectionError):
            await redis.get(key)

        await until(lambda: _answers(redis, key))
    finally:
        lost.start()
        give(key, lost, cluster.nodes)
        cluster.wait_until_whole()


async def _thaw(node: ClusterNode, once: Callable[[], bool]) -> None:
    try:
        await until_true(once)
    finally:
        node.thaw()


def _ports_to(node: ClusterNode) -> set[int]:
    """Count this process's connections to a node."""
    found = psutil.Process().net_connections("tcp")
    return {one.laddr.port for one in found if one.raddr and one.raddr.port == node.port}


async def _is_blocked(node: ClusterNode) -> bool:
    return bool(node.ask("INFO", "clients")["blocked_clients"])


async def _is_there(redis: Redis, key: str) -> bool:
    try:
        return bool(await redis.exists(key))
    except RedisError:
        return False


async def _answers(redis: Redis, key: str) -> bool:
    try:
        await redis.get(key)
    except RedisError:
        return False
    return True
