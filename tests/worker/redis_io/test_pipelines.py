"""What is ready together goes to Redis together, and shares no more than the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import uvloop
from redis.asyncio import Connection, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, ResponseError

from rollstream.transport.redis.scripts import Script
from rollstream.worker.redis_io.connections import TcpConnection, connect
from rollstream.worker.redis_io.pipelines import Pipelines
from tests.support.worker_process import until


@pytest.fixture
async def pipelines(redis_url: str) -> AsyncIterator[Pipelines]:
    """On a client that has no connection yet."""
    client = connect(redis_url)
    yield Pipelines(client)
    await client.aclose()


async def connected(redis: Redis) -> int:
    info: Any = await redis.info("clients")
    return int(info["connected_clients"])


async def test_what_is_ready_together_takes_one_connection(redis: Redis, pipelines: Pipelines, policy: str) -> None:
    before = await connected(redis)

    replies = await asyncio.gather(*(pipelines.send("s", "INCR", policy) for _ in range(64)))

    assert sorted(replies) == list(range(1, 65))
    assert await connected(redis) == before + 1


async def test_a_refused_command_is_an_error_of_its_own(redis: Redis, pipelines: Pipelines, policy: str) -> None:
    await redis.set(policy, "no number")
    commands = [("APPEND", policy, "!"), ("INCR", policy), ("STRLEN", policy)]

    replies = await asyncio.gather(*(pipelines.send("s", *each) for each in commands), return_exceptions=True)

    assert (replies[0], replies[2]) == (10, 10)
    assert isinstance(replies[1], ResponseError)


async def test_scripts_that_redis_does_not_know_are_brought_to_it(
    redis: Redis, pipelines: Pipelines, policy: str
) -> None:
    texts = [f"return redis.call('INCR', KEYS[1]) + {number} -- {policy}" for number in (10, 20)]
    calls = [Script(name="test", text=text)([policy], []) for text in texts]

    found = await asyncio.gather(*(pipelines.run(call) for call in calls * 2))

    assert sorted(number % 10 for number in found) == [1, 2, 3, 4]
    assert await redis.get(policy) == b"4"


async def test_what_nobody_waits_for_any_more_is_not_sent(redis: Redis, pipelines: Pipelines, policy: str) -> None:
    given_up = asyncio.create_task(pipelines.send("s", "SET", policy, "1"))
    await asyncio.sleep(0)  # it is queued, and not sent yet
    given_up.cancel()

    await pipelines.send("s", "PING")

    assert given_up.cancelled()
    assert not await redis.exists(policy)


async def test_a_command_that_gets_no_reply_keeps_others_waiting_for_a_moment_only(
    redis: Redis, pipelines: Pipelines, policy: str
) -> None:
    stuck = asyncio.create_task(pipelines.send("s", "BLPOP", policy, 30))
    await until(lambda: blocked(redis))

    assert await asyncio.wait_for(pipelines.send("s", "STRLEN", "none"), 5) == 0
    assert not stuck.done()
    await redis.rpush(policy, "over")
    assert list(await stuck) == [policy.encode(), b"over"]


async def blocked(redis: Redis) -> bool:
    info: Any = await redis.info("clients")
    return int(info["blocked_clients"]) > 0


async def test_each_stream_has_a_way_of_its_own(redis: Redis, pipelines: Pipelines, policy: str) -> None:
    stuck = asyncio.create_task(pipelines.send("one", "BLPOP", policy, 30))
    await until(lambda: blocked(redis))

    assert await asyncio.wait_for(pipelines.send("other", "STRLEN", "none"), 5) == 0
    assert not stuck.done()
    await redis.rpush(policy, "over")
    await stuck


def test_commands_are_packed_as_redis_py_packs_them() -> None:
    words = ("XGROUP CREATE", "ключ", 17, 0.5, b"", b"\x00\xff" * 9000)
    packed = TcpConnection().pack_commands([words, ("PING",)])

    assert packed == [b"".join(Connection().pack_commands([words, ("PING",)]))]
    with pytest.raises(DataError):
        TcpConnection().pack_command("SET", "key", None)


def test_a_link_that_was_closed_while_a_command_was_written_is_a_lost_link(redis_url: str) -> None:
    async def write_to_a_closed_link() -> None:
        client = connect(redis_url)
        await client.ping()
        pool: Any = client.connection_pool  # redis-py does not type `get_connection`
        connection = await pool.get_connection()
        connection._writer.transport.abort()
        await asyncio.sleep(0)  # uvloop closes in its next turn; redis-py has not heard of it
        assert connection.is_connected
        try:
            await connection.send_command("PING")
        finally:
            await pool.release(connection)
            await client.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(RedisConnectionError):
        runner.run(write_to_a_closed_link())


async def test_a_connection_that_is_closed_while_it_sends_is_a_lost_one(redis_url: str) -> None:
    client = connect(redis_url)
    pool: Any = client.connection_pool  # redis-py does not type it
    connection = await pool.get_connection()
    sending = asyncio.create_task(connection.send_packed_command(b"PING\r\n"))
    await asyncio.sleep(0)

    await connection.disconnect(nowait=True)

    with suppress(RedisConnectionError):  # from Python 3.12 on it is sent before others get their turn
        await sending
    await client.aclose()
