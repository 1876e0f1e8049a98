"""The cluster client follows a slot that has moved, is on its way or belongs to no node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, ResponseError

from rollstream.producer.demo.local_cluster import ClusterNode, LocalCluster
from tests.support.cluster.cluster_steps import give, id_of, impatient, take_away
from tests.support.worker_process import until


@pytest.fixture
async def redis(cluster: LocalCluster) -> AsyncIterator[Redis]:
    client = impatient(cluster)
    yield client
    await client.aclose()


async def test_a_slot_that_moved_is_followed(redis: Redis, cluster: LocalCluster) -> None:
    key = "moved"
    old, new = cluster.node_of(key), next(node for node in cluster.nodes if node is not cluster.node_of(key))
    await redis.set(key, 1)
    await redis.delete(key)
    give(key, new, cluster.nodes)
    try:
        command = await redis.set(key, 1)
        await redis.delete(key)
        give(key, old, cluster.nodes)
        async with redis.pipeline(transaction=True) as pipe:
            pipe.set(key, 2)
            pipe.get(key)
            transaction = await pipe.execute()
        await redis.delete(key)
        give(key, new, cluster.nodes)
        async with redis.pipeline(transaction=False) as pipe:
            pipe.set(key, 3)
            pipe.get("another")
            pipe.get(key)
            pipeline = await pipe.execute()
    finally:
        await redis.delete(key)
        give(key, old, cluster.nodes)

    assert (command, transaction, pipeline) == (True, [True, b"2"], [True, None, b"3"])


async def test_a_slot_that_moved_to_a_node_without_a_name_is_found_at_the_address_that_says_so(
    redis: Redis, cluster: LocalCluster
) -> None:
    key = "nameless"
    old, new = cluster.node_of(key), next(node for node in cluster.nodes if node is not cluster.node_of(key))
    await redis.ping()
    try:
        old.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname")
    except ResponseError:
        pytest.skip("Redis 6.2 has no such names")
    give(key, new, cluster.nodes)
    try:
        found = await redis.set(key, 1)
        await redis.delete(key)
    finally:
        old.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", "ip")
        give(key, old, cluster.nodes)

    assert found is True


async def test_a_slot_that_nobody_has_fails_its_own_keys_alone(redis: Redis, cluster: LocalCluster) -> None:
    nobodys, here = (
        "to-nobody",
        next(key for key in "abcdefgh" if cluster.node_of(key) is not cluster.node_of("to-nobody")),
    )
    for node in cluster.nodes:
        node.ask("CLUSTER", "DELSLOTS", key_slot(nobodys.encode()))
    try:
        async with redis.pipeline(transaction=False) as pipe:
            pipe.get(nobodys)
            pipe.exists(here)
            replies = await pipe.execute(raise_on_error=False)
    finally:
        cluster.node_of(nobodys).ask("CLUSTER", "ADDSLOTS", key_slot(nobodys.encode()))
        cluster.node_of(nobodys).ask("CLUSTER", "BUMPEPOCH")  # what it says goes, whatever another heard meanwhile
        cluster.wait_until_whole()

    assert isinstance(replies[0], ClusterDownError)
    assert replies[1] == 0


async def test_a_slot_on_its_way_is_asked_for_where_it_goes(redis: Redis, cluster: LocalCluster) -> None:
    key = "on-its-way"
    old, new = cluster.node_of(key), next(node for node in cluster.nodes if node is not cluster.node_of(key))
    slot = key_slot(key.encode())
    new.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(old))
    old.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(new))
    try:
        await redis.set(key, 1)
        async with redis.pipeline(transaction=False) as pipe:
            pipe.get(key)
            found = await pipe.execute()
        await redis.delete(key)
    finally:
        for node in (old, new):
            node.ask("CLUSTER", "SETSLOT", slot, "STABLE")

    assert found == [b"1"]


async def test_what_is_under_way_on_a_node_without_slots_is_not_cut(redis: Redis, cluster: LocalCluster) -> None:
    old, _, new = cluster.nodes
    key = next(key for key in "abcdefgh" if cluster.node_of(key) is old)
    slots = [slot for first, last, (_, port, *_), *_ in old.ask("CLUSTER", "SLOTS") if port == new.port
             for slot in range(first, last + 1)]  # fmt: skip
    take_away(slots, cluster.nodes)
    new.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "IMPORTING", id_of(old))
    old.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "MIGRATING", id_of(new))
    try:
        reading: Any = redis.xread({key: "$"}, block=60_000)
        standing: asyncio.Task[Any] = asyncio.create_task(reading)
        await until(lambda: _is_blocked(new))
        asked = _askings(cluster)
        while _askings(cluster) < asked + 2:
            take_away(slots, cluster.nodes)
            await redis.ping()  # asks for the slots again, for some have no node
        await redis.xadd(key, {"field": "value"})
        read: Any = await standing
        await redis.delete(key)
    finally:
        for node in (old, new):
            node.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "STABLE")
        new.ask("CLUSTER", "ADDSLOTS", *slots)
        cluster.wait_until_whole()

    assert len(read[0][1]) == 1


async def _is_blocked(node: ClusterNode) -> bool:
    return bool(node.ask("INFO", "clients")["blocked_clients"])


def _askings(cluster: LocalCluster) -> int:
    """How often the nodes were asked for their slots."""
    names = ("cmdstat_cluster|slots", "cmdstat_cluster")  # the latter before Redis 7
    stats = [node.ask("INFO", "commandstats") for node in cluster.nodes]
    return sum(of_one[name]["calls"] for of_one in stats for name in names if name in of_one)
