"""A Redis that is away, busy or refuses is waited for or told with advice; no password is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from rollstream import AsyncClient, ClientClosedError, RedisUnavailableError
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from rollstream.transport.redis.faults import fault_of
from tests.support.batches import CONFIG, PROMPTS, answering, result
from tests.support.worker_process import wait_for


@pytest.fixture
def own_redis() -> Iterator[Any]:
    """A server that a test may break."""
    with EmbeddedRedis() as own, redis.Redis.from_url(own.url) as connected:
        connected.ping()  # authenticated, also after a password is set
        yield connected


def url_of(server: Any) -> str:
    return f"redis://127.0.0.1:{server.connection_pool.connection_kwargs['port']}/0"


def answers(server: Any) -> bool:
    try:
        return bool(server.ping())
    except redis.ResponseError:
        return False


async def test_results_survive_a_restart_of_redis(policy: str) -> None:
    with EmbeddedRedis() as own:
        async with AsyncClient(own.url, policy=policy, reconnect_s=30) as client:
            handle = await client.submit(PROMPTS, None, CONFIG)
            worker, groups = answering(own.url, policy, handle), handle.groups()
            worker.publish(result(handle, 1))
            seen = [(await anext(groups)).group]
            waiting = asyncio.ensure_future(anext(groups))
            own.stop()
            assert not (await asyncio.wait([waiting], timeout=0.3))[0], "gave up while Redis was away"
            own.start()
            worker.publish(*(result(handle, group) for group in (0, 2, 3)))
            seen += [(await waiting).group]
            seen += [answer.group async for answer in groups]
    assert seen == [1, 0, 2, 3]


async def test_a_wrong_address_is_reported_at_once_without_the_password(policy: str) -> None:
    async with AsyncClient("redis://me:secret@127.0.0.1:1/0", policy=policy, reconnect_s=60) as client:
        async with asyncio.timeout(20):
            with pytest.raises(
                RedisUnavailableError, match=r"cannot submit: Redis at redis://\*\*\*@127.0.0.1:1/0"
            ) as caught:
                await client.submit(PROMPTS, None, CONFIG)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("setting", ["maxmemory", "min-replicas-to-write"])
async def test_a_redis_that_cannot_take_writes_is_waited_for(own_redis: Any, policy: str, setting: str) -> None:
    async with AsyncClient(url_of(own_redis), policy=policy, reconnect_s=30) as client:
        own_redis.config_set(setting, 1)
        submitting = asyncio.ensure_future(client.submit(PROMPTS, None, CONFIG))
        assert not (await asyncio.wait([submitting], timeout=0.5))[0], "gave up while Redis refused writes"
        own_redis.config_set(setting, 0)
        assert (await submitting).num_groups == 4


async def test_a_busy_redis_is_waited_for_from_the_first_call(own_redis: Any, policy: str) -> None:
    own_redis.config_set("lua-time-limit", 1)
    async with AsyncClient(url_of(own_redis), policy=policy, reconnect_s=30) as client:
        with redis.Redis.from_url(url_of(own_redis)) as looping:
            endless = asyncio.create_task(asyncio.to_thread(looping.eval, "while true do end", 0))
            await asyncio.to_thread(wait_for, lambda: not answers(own_redis), 20, lambda: "it was never busy")
            submitting = asyncio.ensure_future(client.submit(PROMPTS, None, CONFIG))
            gave_up = (await asyncio.wait([submitting], timeout=0.5))[0]
            own_redis.script_kill()
            assert not gave_up
            assert (await submitting).num_groups == 4
            assert isinstance((await asyncio.gather(endless, return_exceptions=True))[0], redis.ResponseError)


@pytest.mark.parametrize(
    ("prepare", "user", "advice"),
    [
        (lambda server, _: server.config_set("maxmemory", 1), "", "raise its maxmemory"),
        (lambda server, _: server.config_set("requirepass", "right"), "", "check the user and the password"),
        (lambda server, _: server.config_set("requirepass", "right"), ":wrong@", "check the user and the password"),
        (lambda server, _: server.acl_setuser("weak", enabled=True, nopass=True, commands=["+ping"]), "weak:x@",
         "this user lacks "),
        (lambda server, keys: server.set(keys.ledger("b"), "x"), "", "something else wrote this policy's keys"),
    ],
    ids=["OOM", "no password", "wrong password", "NOPERM", "WRONGTYPE"],
)  # fmt: skip
async def test_advice_fits_what_redis_answered(
    own_redis: Any, policy: str, prepare: Any, user: str, advice: str
) -> None:
    prepare(own_redis, Keys(policy))
    url = url_of(own_redis).replace("redis://", f"redis://{user}")
    async with AsyncClient(url, policy=policy, reconnect_s=0.1) as client:
        with pytest.raises(RedisUnavailableError, match=advice):
            await client.submit(PROMPTS, None, CONFIG, batch_id="b")


def test_script_errors_of_an_old_redis_are_told_by_their_code() -> None:
    old = "Error running script (call to f_12): @user_script:14: @user_script: 14: -OOM command not allowed"
    assert fault_of(redis.ResponseError(old)) == fault_of(redis.exceptions.OutOfMemoryError("command not allowed"))
    assert not fault_of(redis.ResponseError("BUSYGROUP Consumer Group name already exists")).passes


def test_what_is_no_redis_url_is_refused_without_a_part_of_its_password() -> None:
    with pytest.raises(RedisUnavailableError, match="not a Redis URL"):
        AsyncClient("localhost:6379", policy="p")
    with pytest.raises(RedisUnavailableError, match="not a Redis URL") as caught:
        AsyncClient("redis://u:half/secret@h", policy="p")
    assert "half" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [("protocol", "3"), ("decode_responses", "true"), ("socket_timeout", "1"), ("ssl_keyfile", "k"), ("colour", "red")],
)
def test_a_url_cannot_change_how_redis_is_spoken_to(option: str, value: str) -> None:
    with pytest.raises(RedisUnavailableError, match=f"must not set '{option}'; it may set client_name"):
        AsyncClient(f"redis://127.0.0.1/0?db=1&{option}={value}", policy="p")


async def test_a_closed_client_says_so(redis_url: str, policy: str) -> None:
    client = AsyncClient(redis_url, policy=policy)
    await client.aclose()
    await client.aclose()
    with pytest.raises(ClientClosedError, match="closed"):
        await client.attach("b")


async def test_no_cancellation_of_a_call_is_lost(redis_url: str) -> None:
    """redis-py loses some: a caller that is cancelled would go on calling."""
    connection = Connection(access=redis_url, reconnect_s=1)

    async def call_for_ever() -> None:
        while True:
            await connection.call("ping", lambda redis: redis.ping())

    for number in range(200):
        calling = asyncio.create_task(call_for_ever())
        await asyncio.sleep(number % 10 / 2000)
        calling.cancel()
        ended, _ = await asyncio.wait({calling}, timeout=20)
        assert ended, f"cancellation {number} was lost"
    await connection.aclose()


async def test_a_command_begins_before_others_of_its_caller_get_their_turn(redis_url: str) -> None:
    connection, began = Connection(access=redis_url, reconnect_s=1), list[str]()

    async def command(server: Any) -> None:
        began.append("sent")
        await server.ping()

    try:
        await connection.call("ping", command)
        call = asyncio.create_task(connection.call("ping", command))
        await asyncio.sleep(0)
        assert began == ["sent", "sent"], "what is prepared meanwhile is waited for"
        await call
    finally:
        await connection.aclose()
