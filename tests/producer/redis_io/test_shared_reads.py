"""However many handles wait on one client, few connections serve them, and each gets its results in time."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis

from rollstream import AsyncClient, BatchHandle, GroupError, RedisUnavailableError
from rollstream.producer.batches.any_handle import AnyHandle
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.producer.redis_io.connection import COMMANDS_AT_ONCE, READS_AT_ONCE
from rollstream.producer.redis_io.shared_reads import SharedReads
from rollstream.transport.redis.faults import fault_of
from tests.support.answers import Answering
from tests.support.batches import CONFIG
from tests.support.worker_process import ROOT, until, until_true


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Any]:
    """A server for this file alone, so that its clients can be counted."""
    with EmbeddedRedis() as own, redis.Redis.from_url(own.url) as connected:
        yield connected


@pytest.fixture
async def lone(own_redis: Any, policy: str) -> Any:
    port = own_redis.connection_pool.connection_kwargs["port"]
    async with AsyncClient(f"redis://127.0.0.1:{port}/0", policy=policy, reconnect_s=3) as client:
        yield client


def connections(server: Any) -> int:
    """Those of others."""
    return int(server.info("clients")["connected_clients"]) - 1


async def until_blocked(server: Any, least: int = 1) -> None:
    await until(lambda: asyncio.to_thread(lambda: server.info("clients")["blocked_clients"] >= least))


async def waiting(client: AsyncClient, count: int) -> tuple[list[BatchHandle], list[asyncio.Task[Any]]]:
    handles = await asyncio.gather(*(client.submit([[1], [2]], None, CONFIG) for _ in range(count)))
    return handles, [asyncio.create_task(handle.wait(60)) for handle in handles]


async def test_hundreds_of_handles_wait_on_few_connections(lone: AsyncClient, own_redis: Any) -> None:
    handles, waits = await waiting(lone, 300)
    await until_blocked(own_redis)
    assert connections(own_redis) <= COMMANDS_AT_ONCE + READS_AT_ONCE
    await asyncio.gather(*(handle.cancel() for handle in handles))
    assert [len(answers) for answers in await asyncio.gather(*waits)] == [2] * 300
    assert connections(own_redis) <= COMMANDS_AT_ONCE + READS_AT_ONCE


@pytest.mark.usefixtures("long_reads")
async def test_handles_that_come_and_go_hear_of_their_results_at_once(lone: AsyncClient, own_redis: Any) -> None:
    handles, waits = await waiting(lone, 30)
    await until_blocked(own_redis)
    for number, (handle, wait) in enumerate(zip(handles, waits, strict=True)):
        if number % 3 == 0:
            wait.cancel()
            continue
        new, others = await waiting(lone, 1)
        await new[0].cancel()
        await handle.cancel()
        async with asyncio.timeout(20):  # a read that others had begun takes longer
            assert len(await wait) == len(await others[0]) == 2


async def test_handles_of_one_batch_share_its_reads_wherever_each_is(
    lone: AsyncClient, own_redis: Any, policy: str
) -> None:
    first = await lone.submit([[1], [2], [3]], None, CONFIG, batch_id="b")
    url = f"redis://127.0.0.1:{own_redis.connection_pool.connection_kwargs['port']}/0"
    worker = Answering(url, policy, "b", 3)
    worker.publish(cancelled("b", 1))
    assert [answer.group for answer in await first.finished()] == [1]
    handles: list[AnyHandle[Any, Any]] = [first, *(await asyncio.gather(*(lone.attach("b") for _ in range(20))))]
    waits = [asyncio.create_task(handle.wait(60)) for handle in handles]
    await until_blocked(own_redis)
    worker.publish(cancelled("b", 2), cancelled("b", 0))
    assert [list(answers) for answers in await asyncio.gather(*waits)] == [[1, 2, 0]] * 21


async def test_a_reader_that_leaves_during_a_read_is_not_waited_for(own_redis: Any, policy: str) -> None:
    connected = AsyncRedis.from_url(f"redis://127.0.0.1:{own_redis.connection_pool.connection_kwargs['port']}/0")

    async def read(command: Any) -> None:
        await command(connected)

    reads = SharedReads(read=read, waiting=contextlib.nullcontext, most=1, block_ms=60_000)

    def wait(name: str) -> asyncio.Task[Any]:
        return asyncio.create_task(reads.entries(f"{policy}:{name}", b"0-0", 1))

    async with connected:
        first, *others = [wait(name) for name in ("first", "leader", "leaves", "stays")]
        await until_blocked(own_redis)
        own_redis.xadd(f"{policy}:first", {"n": "1"})  # the three others then share one read
        await first
        await until_blocked(own_redis)
        leader, leaves, stays = others
        leaves.cancel()
        await asyncio.wait([leaves])
        own_redis.xadd(f"{policy}:leader", {"n": "1"})
        await leader
        own_redis.xadd(f"{policy}:stays", {"n": "1"})
        assert len(await asyncio.wait_for(stays, 30)) == 1


def cancelled(batch_id: str, group: int) -> GroupError:
    return GroupError(batch_id=batch_id, group=group, code="cancelled", field="batch", message="m", worker="w")


async def test_a_stream_that_redis_refuses_fails_its_own_handle_alone(lone: AsyncClient, own_redis: Any) -> None:
    handles, waits = await waiting(lone, 12)
    key = lone._keys.results(handles[5].batch_id)
    own_redis.set(key, "no stream")
    refused = (await asyncio.wait({waits[5]}, timeout=10))[0]
    assert refused
    assert isinstance(waits[5].exception(), RedisUnavailableError)
    await asyncio.gather(*(handle.cancel() for handle in handles if handle is not handles[5]))
    del waits[5]
    assert [len(answers) for answers in await asyncio.gather(*waits)] == [2] * 11


@pytest.mark.parametrize(
    ("limit", "remedy"), [("maxclients", "its maxclients"), ("files", "oo many open files.*`ulimit -n`")]
)
async def test_a_client_without_a_free_connection_is_told_the_limit(
    lone: AsyncClient, own_redis: Any, limit: str, remedy: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    else:
        own_redis.config_set("maxclients", 1)
    try:
        with pytest.raises(RedisUnavailableError, match=remedy):
            await lone.submit([[1]], None, CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        own_redis.config_set("maxclients", 10_000)
    assert (await lone.submit([[1]], None, CONFIG)).num_groups == 1


NO_FILES = """
import resource
import redis.asyncio
from rollstream import Client, RedisUnavailableError
Client("redis://127.0.0.1:1/0", policy="p").close()
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    Client("redis://me:secret@127.0.0.1:1/0", policy="p")
except RedisUnavailableError as error:
    print(error)
"""


def test_a_client_that_finds_no_file_for_its_event_loop_says_so() -> None:
    told = subprocess.run([sys.executable, "-c", NO_FILES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.startswith("cannot start a client: Redis at redis://***@127.0.0.1:1/0: [Errno 24] Too many open files")
    assert "`ulimit -n`" in told


async def test_in_a_cluster_each_partition_shares_its_own_reads(cluster: LocalCluster, policy: str) -> None:
    async with AsyncClient(cluster.url, policy=policy, partitions=4) as client:
        handles, waits = await waiting(client, 60)
        await until_true(lambda: all(reads._reading for reads in client._connection._reads.values()))
        assert sum(reads._reading for reads in client._connection._reads.values()) <= 8
        await asyncio.gather(*(handle.cancel() for handle in handles))
        assert [len(answers) for answers in await asyncio.gather(*waits)] == [2] * 60


def test_limits_pass_but_a_wrong_address_does_not_look_like_one() -> None:
    assert fault_of(redis.ConnectionError("max number of clients reached")).passes
    assert "raise its maxclients" in fault_of(redis.ConnectionError("max number of clients reached")).advice
    assert "maxclients" not in fault_of(redis.ConnectionError("Error 111 connecting")).advice
