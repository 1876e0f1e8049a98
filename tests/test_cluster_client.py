"""The cluster client: where a command goes, and what it does when a slot has moved, a script is gone or a node is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, DataError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from benchmarks.redis_cluster import ClusterNode, LocalCluster
from producer.connection import Connection
from producer.errors import RedisUnavailableError
from schemas.cluster import connected, is_cluster, is_split, nodes_of
from schemas.cluster.slots import addresses, owners, slot_of
from schemas.cluster.url import seeds
from tests.worker_process import until

SLOT = key_slot(b"{p:1}")
SETTINGS: dict[str, Any] = {"protocol": 2, "decode_responses": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster() as cluster:
        yield cluster


@pytest.fixture
async def redis(cluster: LocalCluster) -> AsyncIterator[Redis]:
    client = connected(cluster.url, retry=Retry(NoBackoff(), 0), **SETTINGS)
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
        (("SCAN", "0", b"MATCH", "{p:1}:workers:*", b"COUNT", 500), SLOT),
        (("SCAN", "0"), None),
        (("PING",), None),
        (("INFO", "memory"), None),
        (("TIME",), None),
    ],
)
def test_a_command_goes_by_its_first_key(command: tuple[Any, ...], slot: int | None) -> None:
    assert slot_of(command) == slot


def test_a_slot_belongs_to_its_primary_and_an_unnamed_one_is_who_was_asked() -> None:
    reply = [[0, 9, [b"10.0.0.1", 1, b"id"], [b"10.0.0.9", 9, b"id"]], [10, 11, [b"", 2, b"id"]], [12, 12, [None, 3]]]

    found = owners(reply, "asked")

    assert found[:14] == [("10.0.0.1", 1)] * 10 + [("asked", 2)] * 2 + [("asked", 3), None]
    assert list(addresses(found)) == [("10.0.0.1", 1), ("asked", 2), ("asked", 3)]


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis+cluster://a:1,b:2", ["redis://a:1/0", "redis://b:2/0"]),
        (
            "rediss+cluster://u:p@a:1,b/0?client_name=c",
            ["rediss://u:p@a:1/0?client_name=c", "rediss://u:p@b/0?client_name=c"],
        ),
    ],
)
def test_each_named_node_is_a_place_to_begin(url: str, found: list[str]) -> None:
    assert is_cluster(url)
    assert seeds(url) == found


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+cluster://a:1/2", "database 0"),
        ("redis+cluster://:secret@a:1,:secret@b:2", "one login"),
        ("redis+cluster://:secret@a:1,", "comma without a node"),
    ],
)
def test_a_cluster_has_one_database_one_login_and_nodes_with_names(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        seeds(url)

    assert "secret" not in str(refused.value)


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
    new.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(old))
    old.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(new))
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
    new.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "IMPORTING", _id(old))
    old.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "MIGRATING", _id(new))
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


async def test_a_script_is_loaded_where_it_is_missing_while_another_node_is_away(
    redis: Redis, cluster: LocalCluster
) -> None:
    lost, there = cluster.nodes[0], next(key for key in "mnopqrst" if cluster.node_of(key) is cluster.nodes[2])
    script = redis.register_script(b"return redis.call('INCR', KEYS[1])")
    await redis.ping()
    lost.kill()
    try:
        cluster.nodes[2].ask("SCRIPT", "FLUSH")
        counted = [await script(keys=[there]) for _ in range(2)]
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
        async with connected(cluster.url, **SETTINGS, retry=Retry(NoBackoff(), 0)) as newcomer:
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
    hasty = connected(cluster.url, retry=Retry(NoBackoff(), 0), socket_timeout=0.5, **SETTINGS)
    slow = "redis.call('INCR', KEYS[1]) local n = 0 while n < 60000000 do n = n + 1 end"
    async with hasty:
        await hasty.ping()
        with pytest.raises(RedisError):
            await hasty.eval(slow, 1, "once")
        await until(lambda: _answers(hasty, "once"), 60)

        assert await hasty.get("once") == b"1"


async def test_one_node_of_a_cluster_is_no_redis_of_its_own(cluster: LocalCluster, redis_url: str) -> None:
    alone = Connection(f"redis://127.0.0.1:{cluster.nodes[0].port}/0", reconnect_s=5)
    key = next(key for key in "abcdefgh" if cluster.node_of(key) is not cluster.nodes[0])
    single = Connection(redis_url.replace("redis://", "redis+cluster://"), reconnect_s=5)
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


def _give(key: str, node: ClusterNode, cluster: LocalCluster) -> None:
    """Slots move without their keys here: there must be none."""
    for each in (node, *cluster.nodes):
        each.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "NODE", _id(node))


def _id(node: ClusterNode) -> str:
    found: bytes = node.ask("CLUSTER", "MYID")
    return found.decode() if isinstance(found, bytes) else found


async def _is_blocked(node: ClusterNode) -> bool:
    return bool(node.ask("INFO", "clients")["blocked_clients"])


async def _answers(redis: Redis, key: str) -> bool:
    try:
        await redis.get(key)
    except RedisError:
        return False
    return True


async def test_the_slots_of_a_node_that_is_away_are_found_where_they_went(redis: Redis, cluster: LocalCluster) -> None:
    lost, heir, third = cluster.nodes
    key = next(key for key in ("to-be-lost", *"abcdefgh") if cluster.node_of(key) is lost)
    await redis.get(key)
    lost.kill()
    try:
        for node in (heir, third):
            node.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "NODE", _id(heir))
        with pytest.raises(RedisConnectionError):
            await redis.get(key)

        await until(lambda: _answers(redis, key))
    finally:
        for node in (heir, third):
            node.ask("CLUSTER", "SETSLOT", key_slot(key.encode()), "NODE", _id_seen_by(node, lost))
        lost.start()
        cluster.wait_until_whole()


def _id_seen_by(node: ClusterNode, other: ClusterNode) -> str:
    """Of one that is away."""
    lines = bytes(node.ask("CLUSTER", "NODES")).decode().splitlines()
    return next(line.split()[0] for line in lines if f":{other.port}@" in line)
