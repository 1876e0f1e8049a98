"""One Sentinel of three that lies, or answers what no Sentinel does, ends nobody and gets no password."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from rollstream import AsyncClient, GenerationConfig, RedisUnavailableError
from rollstream.producer.cli.app import app
from rollstream.producer.demo.embedded_redis import EmbeddedRedis, free_port
from rollstream.producer.doctor.examine import examine
from rollstream.producer.doctor.finding import FAIL, OK, WARN
from rollstream.schemas import Keys
from rollstream.transport.redis.primary import PrimaryPool, failovers_of, primary_of
from rollstream.transport.redis.sentinel_answers import Primary
from rollstream.transport.redis.sentinel_errors import NotASentinelError
from rollstream.transport.redis.sentinels import Sentinels
from rollstream.worker.redis_io.connections import connect
from tests.support.sentinel.fake import FakeSentinel, bulk, fakes, names
from tests.support.sentinel.servers import SERVICE
from tests.support.stub_workers import serving
from tests.support.worker_process import until

CONFIG = GenerationConfig(max_new_tokens=1, num_return_sequences=1, seed=1)
ODD = {
    "nothing": b"$-1\r\n",
    "no list": b"*-1\r\n",
    "a number": b":5\r\n",
    "OK": b"+OK\r\n",
    "an empty list": b"*0\r\n",
    "an odd list": bulk("ip", "127.0.0.1", "port"),
    "no flags": bulk("ip", "127.0.0.1", "port", 6379, "config-epoch", 1),
    "no address": bulk("flags", "master", "port", 6379, "config-epoch", 1),
    "a port of words": bulk("ip", "127.0.0.1", "port", "many", "flags", "master", "config-epoch", 1),
    "a large epoch": bulk("ip", "127.0.0.1", "port", 6379, "flags", "master", "config-epoch", "9" * 5000),
    "lists in lists": b"*2\r\n*1\r\n*0\r\n*2\r\n$2\r\nip\r\n*0\r\n",
    "very deep lists": b"*1\r\n" * 5000 + b":1\r\n",
    "no RESP": b"HTTP/1.1 400 Bad Request\r\n",
    "a length of words": b"*many\r\n",
    "a map of lists": b"%1\r\n*1\r\n:1\r\n:2\r\n",
}


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    with EmbeddedRedis() as server:
        yield server.port


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_an_odd_reply_is_an_error_of_that_sentinel_alone(odd: bytes, redis_port: int) -> None:
    with fakes(odd, names(redis_port), names(redis_port)) as (url, sentinels):
        async with connect(url) as redis:
            assert await redis.ping()
            pool = redis.connection_pool
            assert isinstance(pool, PrimaryPool)
            said = await pool.sentinel_answers()

    assert isinstance(said[0], NotASentinelError)
    assert f"127.0.0.1:{sentinels[0].port}" in said[0].problem


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_status_names_it_where_all_answer_so(odd: bytes) -> None:
    with fakes(odd) as (url, sentinels):
        done = CliRunner().invoke(app, ["status", "--policy", "p", "--redis", url])

    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert f"127.0.0.1:{sentinels[0].port}" in done.stderr
    assert "name the Sentinels" in done.stderr


@pytest.mark.parametrize("masters", ODD.values(), ids=ODD)
async def test_an_odd_list_of_services_only_leaves_the_error_shorter(masters: bytes) -> None:
    with FakeSentinel(b"-ERR No such master with that name\r\n", masters) as fake:
        async with AsyncClient(f"redis+sentinel://127.0.0.1:{fake.port}/{SERVICE}", policy="p") as client:
            with pytest.raises(RedisUnavailableError, match=f"watches no '{SERVICE}'"):
                await client.submit([[1]], config=CONFIG)


async def test_a_worker_goes_on_while_one_sentinel_answers_what_none_does(redis_port: int, policy: str) -> None:
    honest = names(redis_port)
    with fakes(ODD["nothing"], honest, honest) as (url, sentinels), serving(url, policy) as (worker,):
        sentinels[0].reply = ODD["a map of lists"]
        asked = len(sentinels[0].heard)
        await until(lambda: _asks_again(sentinels[0], asked + 1))
        async with AsyncClient(url, policy=policy) as client:
            answers = await (await client.submit([[1]], config=CONFIG)).wait(timeout=30)

        assert sorted(answers) == [0]
        assert worker.process.poll() is None
        assert "Traceback" not in worker.log


async def _asks_again(sentinel: FakeSentinel, before: int) -> bool:
    return len(sentinel.heard) > before


async def test_one_sentinel_with_a_large_epoch_gets_no_connection(redis_port: int) -> None:
    with FakeSentinel(b"") as thief:
        lie = names(thief.port, epoch=10**9)
        with fakes(lie, names(redis_port), names(redis_port)) as (url, sentinels):
            async with connect(url) as redis:
                await until(lambda: _asked_in_turn(redis, sentinels[0], 3))
                found = primary_of(redis)

        assert thief.heard == []
        assert found is not None
        assert found.address == ("127.0.0.1", redis_port)


async def test_a_large_epoch_of_the_right_primary_ends_no_connection(redis_port: int) -> None:
    lie = names(redis_port, epoch=10**9)
    with fakes(lie, names(redis_port), names(redis_port)) as (url, sentinels):
        async with connect(url) as redis:
            await until(lambda: _asked_in_turn(redis, sentinels[0], 3))

            assert failovers_of(redis) == 0


async def _asked_in_turn(redis: object, sentinel: FakeSentinel, times: int) -> bool:
    await redis.ping()  # type: ignore[attr-defined] # redis-py's client, of whatever class
    return sum(b"MASTER" in command for command in sentinel.heard) >= times


async def test_sentinels_of_which_none_has_more_than_half_are_named_with_what_they_say(redis_port: int) -> None:
    other = free_port()
    with fakes(names(redis_port), names(other, epoch=2)) as (url, sentinels):
        async with AsyncClient(url, policy="p") as client:
            with pytest.raises(RedisUnavailableError, match="the Sentinels do not agree") as raised:
                await client.submit([[1]], config=CONFIG)
        (finding,) = await examine(url, Keys("p"))

    for sentinel, port in zip(sentinels, (redis_port, other), strict=True):
        assert f"127.0.0.1:{sentinel.port} names 127.0.0.1:{port}" in str(raised.value)
    assert finding.level == FAIL
    assert "was cut off, watches another Redis or lies" in finding.remedy


async def test_the_doctor_names_the_sentinel_that_contradicts_and_the_one_that_is_away(redis_port: int) -> None:
    honest = names(redis_port)
    with fakes(names(free_port(), epoch=10**9), honest, honest, honest) as (url, sentinels):
        sentinels[3].reply = ODD["a number"]
        found = [each for each in await examine(url, Keys("p")) if each.check == "sentinels"]

    assert [each.level for each in found] == [WARN, WARN]
    assert f"127.0.0.1:{sentinels[0].port} names" in found[0].seen
    assert f"127.0.0.1:{redis_port}" in found[0].seen
    assert f"127.0.0.1:{sentinels[3].port}" in found[1].seen


async def test_the_doctor_counts_sentinels_that_agree(redis_port: int) -> None:
    with fakes(*3 * [names(redis_port)]) as (url, _):
        found = [each for each in await examine(url, Keys("p")) if each.check == "sentinels"]

    assert [(each.level, each.seen) for each in found] == [(OK, "all 3 name it")]


async def test_a_sentinel_that_names_another_for_long_is_a_warning_once(
    redis_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollstream.transport.redis.sentinel_answers.DISSENT_S", 0.0)
    other, honest = free_port(), names(redis_port)
    with caplog.at_level(logging.WARNING), fakes(names(other), honest, honest) as (url, sentinels):
        async with connect(url) as redis:
            await until(lambda: _asked_in_turn(redis, sentinels[0], 4))

    said = [each for each in caplog.messages if "has named" in each]
    assert len(said) == 1
    assert f"127.0.0.1:{other}" in said[0]
    assert f"127.0.0.1:{redis_port} is believed" in said[0]


async def test_sentinels_are_asked_while_a_command_waits_and_no_more_after_it(
    redis_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollstream.transport.redis.primary.LOOK_S", 0.02)
    monkeypatch.setattr("rollstream.transport.redis.primary._IDLE_S", 0.0)
    with fakes(names(redis_port)) as (url, sentinels):
        async with connect(url) as redis:
            waiting = asyncio.ensure_future(redis.blpop(["nothing"], timeout=20))
            await until(lambda: _asks_again(sentinels[0], 20))
            watching = vars(redis.connection_pool)["_watching"]
            assert not watching.done()

            await redis.rpush("nothing", 1)
            await waiting
            await asyncio.wait_for(watching, 10)


async def test_a_closed_client_asks_no_more_though_the_end_came_in_the_middle_of_a_question(
    redis_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def loses_its_cancellation(*_given: object) -> None:
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):  # as redis-py may
            await asyncio.sleep(60)
        await asyncio.sleep(0.1)  # and may go on for a while

    monkeypatch.setattr(Sentinels, "next_answer", loses_its_cancellation)
    with fakes(*3 * [names(redis_port)]) as (url, _):
        before = asyncio.all_tasks()
        async with connect(url) as redis:
            await redis.ping()
            await asyncio.wait_for(asked.wait(), 10)

        assert asyncio.all_tasks() == before


async def test_looking_for_a_failover_outlives_what_nobody_expected(
    redis_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()
    answer = Sentinels.next_answer

    async def broken_once(sentinels: Sentinels, service: str) -> Primary | None:
        if not failed.is_set():
            failed.set()
            raise ValueError("odd")
        return await answer(sentinels, service)

    monkeypatch.setattr(Sentinels, "next_answer", broken_once)
    with fakes(*3 * [names(redis_port)]) as (url, sentinels):
        async with connect(url) as redis:
            await redis.ping()
            watching = vars(redis.connection_pool)["_watching"]
            await until(lambda: _asked_in_turn(redis, sentinels[1], 3))

            assert failed.is_set()
            assert vars(redis.connection_pool)["_watching"] is watching
    assert caplog.text.count("cannot ask the Sentinels of 'rollouts', trying again: ValueError: odd") == 1
