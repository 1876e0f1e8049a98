"""The cluster client: where a command goes, and what is no cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import DataError

from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.producer.errors import RedisUnavailableError
from rollstream.producer.redis_io.connection import Connection
from rollstream.transport.redis import connected, is_split, nodes_of
from rollstream.transport.redis.slots import addresses, owners, slot_of
from tests.support.cluster.cluster_steps import impatient

SLOT = key_slot(b"{p:1}")


@pytest.fixture
async def redis(cluster: LocalCluster) -> AsyncIterator[Redis]:
    client = impatient(cluster)
    yield client
    await client.aclose()


@pytest.mark.parametrize(
    ("command", "slot"),
    [
        (("GET", "{p:1}:a"), SLOT),
        (("HSET", b"{p:1}:a", "f", "v"), SLOT),
        (("XGROUP CREATE", "{p:1}:a", "workers", "0"), SLOT),
        (("MEMORY USAGE", "{p:1}:a"), SLOT),
        (("EVALSHA", "0" * 40, 2, "{p:1}:a", "{p:1}:b", "{q}"), SLOT),
        (("EVAL", "return 1", 0, "{q}"), None),
        (("XREAD", b"COUNT", 1, b"STREAMS", "{p:1}:a", "0-0"), SLOT),
        (("XREADGROUP", b"GROUP", b"workers", "w", b"BLOCK", b"9", b"STREAMS", b"{p:1}:a", ">"), SLOT),
        (("XREADGROUP", b"GROUP", b"streams", "streams", b"STREAMS", b"{p:1}:a", ">"), SLOT),
        (("PING",), None),
        (("WAIT", 1, 1000), None),
        (("INFO", "memory"), None),
        (("TIME",), None),
    ],
)
def test_a_command_goes_by_its_first_key(command: tuple[Any, ...], slot: int | None) -> None:
    assert slot_of(command) == slot


def test_a_slot_belongs_to_its_primary_and_an_unnamed_node_is_the_one_that_was_asked() -> None:
    reply = [[0, 9, [b"10.0.0.1", 1, b"id"], [b"10.0.0.9", 9, b"id"]], [10, 11, [b"", 2, b"id"]], [12, 12, [None, 3]]]

    found = owners(reply, "asked")

    assert found[:14] == [("10.0.0.1", 1)] * 10 + [("asked", 2)] * 2 + [("asked", 3), None]
    assert list(addresses(found)) == [("10.0.0.1", 1), ("asked", 2), ("asked", 3)]


async def test_a_pipeline_over_every_node_answers_in_order(redis: Redis, cluster: LocalCluster) -> None:
    keys = [f"order-{number}" for number in range(30)]
    async with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        for number, key in enumerate(keys):
            pipe.set(key, number)
            pipe.get(key)
        clock, *replies = await pipe.execute()

    assert {cluster.node_of(key).port for key in keys} == {node.port for node in cluster.nodes}
    assert clock[0] > 0
    assert replies[1::2] == [b"%d" % number for number in range(30)]


async def test_a_transaction_over_two_slots_is_refused(redis: Redis) -> None:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.set("{one}", 1)
        pipe.set("{two}", 2)
        with pytest.raises(DataError, match="no slot"):
            await pipe.execute()

    assert await redis.get("{one}") is None


async def test_one_node_of_a_cluster_is_no_redis_of_its_own(cluster: LocalCluster, redis_url: str) -> None:
    alone = Connection(access=f"redis://127.0.0.1:{cluster.nodes[0].port}/0", reconnect_s=5)
    key = next(key for key in "abcdefgh" if cluster.node_of(key) is not cluster.nodes[0])
    single = Connection(access=redis_url.replace("redis://", "redis+cluster://"), reconnect_s=5)
    try:
        with pytest.raises(RedisUnavailableError, match=r"write redis\+cluster://"):
            await alone.call("read", lambda redis: redis.get(key))
        with pytest.raises(RedisUnavailableError, match="cluster support disabled"):
            await single.call("read", lambda redis: redis.get(key))
    finally:
        await alone.aclose()
        await single.aclose()


async def test_a_single_redis_has_no_seam(redis_url: str) -> None:
    client = connected(redis_url)
    try:
        assert type(client) is Redis
        assert not is_split(client)
        assert await nodes_of(client) == {"": client}
    finally:
        await client.aclose()
