"""The cluster client follows a slot that has moved, is on its way or belongs to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, ResponseError

from rollstream.producer.demo.local_cluster import ClusterNode, LocalCluster
from tests.support.cluster_steps import id_of, impatient


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
    _give(key, new, cluster)
    try:
        command = await redis.set(key, 1)
        await redis.delete(key)
        _give(key, old, cluster)
        async with redis.pipeline(transaction=True) as pipe:
            pipe.set(key, 2)
            pipe.get(key)
            transaction = await pipe.execute()
        await redis.delete(key)
        _give(key, new, cluster)
        async with redis.pipeline(transaction=False) as pipe:
            pipe.set(key, 3)
            pipe.get("another")
            pipe.get(key)
            pipeline = await pipe.execute()
    finally:
        await redis.delete(key)
        _give(key, old, cluster)

    assert (command, transaction, pipeline) == (True, [True, b"2"], [True, None, b"3"])


async def test_a_slot_that_moved_to_a_node_without_a_name_is_found_at_the_address_of_who_says_so(
    redis: Redis, cluster: LocalCluster
) -> None:
    key = "nameless"
    old, new = cluster.node_of(key), next(node for node in cluster.nodes if node is not cluster.node_of(key))
    await redis.ping()
    try:
        old.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname")
    except ResponseError:
        pytest.skip("Redis 6.2 has no such names")
    _give(key, new, cluster)
    try:
        found = await redis.set(key, 1)
        await redis.delete(key)
    finally:
        old.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", "ip")
        _give(key, old, cluster)

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
    for node in cluster.nodes:
        node.ask("CLUSTER", "DELSLOTS", *slots)
    new.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "IMPORTING", id_of(old))
    old.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "MIGRATING", id_of(new))
    try:
        running: Any = redis.eval("local n = 0 while n < 30000000 do n = n + 1 end return n", 1, key)
        slow: asyncio.Task[Any] = asyncio.create_task(running)
        while not slow.done():
            await redis.ping()  # asks for the slots again, for some have no node
            await asyncio.sleep(0.05)
        answer = await slow
    finally:
        for node in (old, new):
            node.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "STABLE")
        new.ask("CLUSTER", "ADDSLOTS", *slots)
        cluster.wait_until_whole()

    assert answer == 30_000_000


def _give(key: str, node: ClusterNode, cluster: LocalCluster) -> None:
    """Slots move without their keys here: there must be none."""
    for each in (node, *cluster.nodes):
        each.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "NODE", id_of(node))
