"""`rollstream backlog`, `/backlog` of the exporter and the metric: one number, in time, or none."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any, cast

import pytest
from redis.exceptions import BusyLoadingError, ConnectionError, NoPermissionError

from rollstream import Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.errors import RedisUnavailableError
from rollstream.producer.observe import exporter
from rollstream.producer.observe.exporter import BACKLOG_S, Readings
from rollstream.producer.observe.fleet import Fleet
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.schemas import Keys
from tests.support.command_line import Command
from tests.support.fault_steps import tokens
from tests.support.faults import Link
from tests.support.watching.exporters import Exporter, exporting
from tests.support.watching.invented_fleet import InventedReader
from tests.support.worker_process import wait_for

SOON_S = 3.0
"""KEDA's patience."""


@pytest.fixture
def command(redis_url: str, policy: str) -> Command:
    return Command(redis_url, policy)


def asked(exporter: Exporter) -> tuple[int, dict[str, Any], float]:
    """Status, JSON, and the seconds that it took."""
    url, began = exporter.url.replace("/metrics", "/backlog"), time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=20) as reply:
            return reply.status, json.load(reply), time.monotonic() - began
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), time.monotonic() - began


@pytest.mark.keys_by_hand
def test_metric_endpoint_and_command_give_the_same_number(
    redis_url: str, policy: str, client: Client, server: Any, command: Command
) -> None:
    client.submit([[1]] * 30, None, tokens(77), prompts_per_job=10)
    with exporting(redis_url, policy) as exporter:
        unmeasured = asked(exporter)[1]
        server.hset(Keys(policy).rate(), "tokens_per_s", "13.7")
        wait_for(lambda: asked(exporter)[1]["measured"], 20, exporter.text)
        status, measured, _ = asked(exporter)
        metric = exporter.scrape()["rollstream_backlog_seconds"][()]
    told = json.loads(command("backlog", "--json").stdout)

    assert status == 200
    assert (unmeasured["measured"], unmeasured["worker_seconds"]) == (False, 2.31)
    assert 0 <= measured.pop("read_s_ago") <= 1
    assert measured == told
    assert metric == told["backlog_seconds"] == pytest.approx(30 * 77 / 13.7, rel=1e-5)
    assert told == {
        "policy": policy,
        "backlog_seconds": metric,
        "worker_seconds": metric,
        "queued_tokens": 2310,
        "asked_tokens": 2310,
        "tokens_per_second_per_worker": 13.7,
        "measured": True,
        "workers": 0,
        "open_groups": 30,
        "waiting_jobs": 3,
        "pending_jobs": 0,
        "paused": False,
    }


def test_an_empty_queue_is_0_and_a_speed_that_is_not_measured_yet_may_be_given(
    redis_url: str, policy: str, client: Client, command: Command
) -> None:
    idle = command("backlog").stdout
    with exporting(redis_url, policy, "--assumed-tokens-per-s", "10") as exporter:
        empty = asked(exporter)[1]
        client.submit([[1]] * 30, None, tokens(100))
        wait_for(lambda: asked(exporter)[1]["waiting_jobs"] == 4, 20, exporter.text)
        told = asked(exporter)[1]

    assert idle == f"policy {policy}: nothing is queued (0 jobs waiting, 0 taken)\n"
    assert (empty["backlog_seconds"], empty["worker_seconds"], empty["waiting_jobs"]) == (0.0, 0.0, 0)
    assert (told["backlog_seconds"], told["tokens_per_second_per_worker"], told["measured"]) == (300.0, 10.0, False)
    assert command("backlog", "--assumed-tokens-per-s", "10").stdout.splitlines() == [
        f"policy {policy}: 300.0 s of work for one worker (there is none)",
        "3,000 tokens (3,000 at most) at 10 tokens/s each, assumed; 4 jobs waiting, 0 taken",
        "no worker has measured its speed yet, which takes a minute of work: see --assumed-tokens-per-s",
    ]


def test_redis_away_is_503_and_exit_1_and_never_an_empty_queue(policy: str) -> None:
    with EmbeddedRedis(appendonly=True) as own:
        with exporting(own.url, policy) as exporter:
            assert asked(exporter)[0] == 200
            own.kill()
            wait_for(lambda: asked(exporter)[0] == 503, 20, exporter.text)
            away = asked(exporter)[1]
        ended = Command(own.url, policy)("backlog", "--json")

    assert away == {"error": "Redis does not answer"}
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "check the address and that the server runs" in ended.stderr


def test_a_reading_that_takes_long_is_waited_for_and_then_the_last_one_is_told(redis_url: str, policy: str) -> None:
    with Link(redis_url) as link, exporting(link.url, policy) as exporter:
        assert asked(exporter)[0] == 200
        link.delay_s = 0.4  # three replies make a reading
        wait_for(lambda: asked(exporter)[1]["read_s_ago"] > 1, 20, exporter.text)
        waited_for = asked(exporter)
        link.delay_s = 0.9
        wait_for(lambda: asked(exporter)[1]["read_s_ago"] > BACKLOG_S, 20, exporter.text)
        link.delay_s = 0.0
        wait_for(lambda: asked(exporter)[1]["read_s_ago"] < 1, 20, exporter.text)

    status, told, seconds = waited_for
    assert (status, told["waiting_jobs"], seconds < SOON_S) == (200, 0, True)


class Reader(InventedReader):
    """A reading waits for `let_go`, and fails with `error`."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.error: Exception | None = None

    async def read(self) -> Fleet:
        await self.let_go.wait()
        if self.error is not None:
            raise self.error
        return await super().read()


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(exporter, "FRESH_S", 0.0)
    monkeypatch.setattr(exporter, "BACKLOG_S", 0.05)
    return Reader()


def readings_of(reader: Reader) -> Readings:
    return Readings(reader=cast("FleetReader", reader), say=lambda _line: None)


def refused(cause: Exception) -> RedisUnavailableError:
    error = RedisUnavailableError("read the fleet", "redis://secret-host/0", "it said so", "do this")
    error.__cause__ = cause
    return error


async def test_the_last_reading_is_told_until_it_is_too_old(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = readings_of(reader)
    fresh = await readings.backlog()
    reader.let_go.clear()
    last = await readings.backlog()
    monkeypatch.setattr(exporter, "OLDEST_S", 0.05)
    too_old = await readings.backlog()

    assert [page.status for page in (fresh, last, too_old)] == [200, 200, 503]
    assert json.loads(last.body)["worker_seconds"] == json.loads(fresh.body)["worker_seconds"]
    assert "slow" in json.loads(too_old.body)["error"]
    reader.let_go.set()
    assert (await readings.backlog()).status == 200


async def test_a_first_reading_that_is_slow_is_unknown_and_not_away(reader: Reader) -> None:
    reader.let_go.clear()

    assert json.loads((await readings_of(reader).backlog()).body) == {
        "error": "Redis is slow: a reading has not ended within 0.05 s"
    }


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (ConnectionError("refused"), "Redis does not answer"),
        (NoPermissionError("no"), "Redis refuses to be read: the exporter logs why"),
        (BusyLoadingError("no"), "Redis refuses to be read: the exporter logs why"),
    ],
)
async def test_a_reading_that_failed_is_503_with_its_kind_alone(reader: Reader, cause: Exception, said: str) -> None:
    readings = readings_of(reader)
    assert (await readings.backlog()).status == 200
    reader.error = refused(cause)
    page = await readings.backlog()

    assert (page.status, json.loads(page.body)) == (503, {"error": said})


@pytest.mark.keys_by_hand
def test_totals_that_cannot_be_read_are_503_and_exit_1(
    redis_url: str, policy: str, client: Client, server: Any, command: Command
) -> None:
    client.submit([[1]], None, tokens(5))
    server.delete(Keys(policy).jobs(0))
    server.set(Keys(policy).jobs(0), "of another type")
    with exporting(redis_url, policy) as exporter:
        status, told, _ = asked(exporter)
        scraped = exporter.scrape()
    ended = command("backlog")

    assert status == 503
    assert "WRONGTYPE" in told["error"]
    assert "rollstream_backlog_seconds" not in scraped
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "WRONGTYPE" in ended.stderr
