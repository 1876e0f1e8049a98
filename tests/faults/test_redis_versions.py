"""The main guarantees on every redis-server of this machine; `make test-redis` runs all tests of the queue on each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from rollstream import Client, GroupError
from rollstream.producer.cli.app import app
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.redis_server import CHOSEN
from rollstream.schemas.keys import GROUP
from rollstream.worker.redis_io.streams import read_new
from tests.support.fault_steps import (
    TOKENS,
    is_of,
    kill,
    stub_flags,
    stubs,
    tokens,
    wait_until_done,
    wait_until_held,
    wait_until_one_holds,
)
from tests.support.faults import Holder, Queue, audit
from tests.support.janitors import janitor_of
from tests.support.redis_servers import redis_servers
from tests.support.worker_process import until

LEASE_S = 1.0
POISON = 666
SERVERS = redis_servers()


@pytest.fixture(scope="module", params=SERVERS)
def redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of each version, in place of the session's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHOSEN, str(SERVERS[request.param]))
        with EmbeddedRedis() as server:
            yield server.url


async def test_the_server_is_of_the_version_that_the_test_names(redis: Redis, request: pytest.FixtureRequest) -> None:
    found = await redis.info("server")

    name = f"Valkey {found['valkey_version']}" if "valkey_version" in found else found["redis_version"]
    assert f"[{name}]" in request.node.name


def test_a_killed_workers_batch_is_finished_by_another_and_replays_token_for_token(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stubs(redis_url, policy, *stub_flags(group_s=0.2, at_once=1, lease_s=LEASE_S)) as (one, two):
        batch = client.submit([[5 + row] for row in range(4)], None, tokens())
        victim, rescuer = wait_until_one_holds(one, two, queue)
        wait_until_done(queue, batch.batch_id, 2, victim)
        kill(victim)
        found = batch.result(timeout=20)
        replayed = CliRunner().invoke(
            app, ["replay", "--redis", redis_url, "--policy", policy, "--batch", batch.batch_id, "--verify"]
        )

    answers = audit(redis_url, policy, batch.batch_id, 4)
    assert found.errors == {}
    assert found.response_lengths.tolist() == [TOKENS] * 4
    assert {is_of(answer.worker, rescuer) for answer in answers} == {False, True}
    assert replayed.exit_code == 0, replayed.output


def test_a_job_that_kills_its_worker_is_a_dead_letter_and_an_error_to_its_producer(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    flags = ("--max-deliveries", "1", "--stub-poison-token", str(POISON), *stub_flags(lease_s=LEASE_S))
    with stubs(redis_url, policy, *flags) as (one, two):
        batch = client.submit([[5], [POISON]], None, tokens(1))
        found = batch.result(timeout=20)
        codes = [worker.process.poll() for worker in (one, two)]

    ((letter, payload),) = queue.dead()
    ((entry_id, _),) = queue.entries()
    audit(redis_url, policy, batch.batch_id, 2)
    assert found.errors[1].code == "too_many_deliveries"
    assert sorted(codes, key=str) == [70, None]
    assert letter.entry_id == entry_id
    assert payload == queue.entries()[0][1][b"payload"]


def test_a_cancelled_batch_is_answered_and_its_worker_serves_the_next_batch(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stubs(redis_url, policy, *stub_flags(group_s=1.0), count=1) as (worker,):
        batch = client.submit([[5], [6], [7]], None, tokens(60 * TOKENS))
        wait_until_held(worker, queue)
        batch.cancel()
        found = batch.result(timeout=30)
        following = client.generate([[8]], None, tokens(1), timeout=30)
        wait_until_done(queue, batch.batch_id, 3, worker)

    answers = audit(redis_url, policy, batch.batch_id, 3)
    assert [answer.code for answer in answers if isinstance(answer, GroupError)] == ["cancelled"] * 3
    assert len(found.errors) == 3
    assert following.errors == {}


def test_waiting_jobs_are_counted_whether_redis_counts_them_or_not(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    client.submit([[5 + row] for row in range(7)], None, tokens(1), prompts_per_job=1)
    queue.redis.xreadgroup(GROUP, "holding", {queue.jobs_key: ">"}, count=2)
    queue.redis.xdel(queue.jobs_key, queue.entries()[4][0])  # after which no version counts by itself

    told = CliRunner().invoke(app, ["status", "--redis", redis_url, "--policy", policy, "--json"])

    (found,) = json.loads(told.output)["queues"]
    assert (found["waiting"], found["pending"]) == (4, 2)


async def test_a_worker_that_waits_gets_the_next_job_if_its_consumer_was_removed(
    redis_url: str, policy: str, redis: Redis, queue: Queue
) -> None:
    jobs = queue.jobs_key
    await redis.xgroup_create(jobs, GROUP, id="0", mkstream=True)
    async with Redis.from_url(redis_url) as waiting:
        reading = asyncio.create_task(read_new(waiting, "live", [jobs], 10_000, 1))
        await until(lambda: is_blocked(redis))
        await redis.xgroup_createconsumer(jobs, GROUP, "live")
        await janitor_of(redis, policy).remove_dead_consumers(jobs, -1)
        left = await redis.xinfo_consumers(jobs, GROUP)
        await redis.xadd(jobs, {"payload": b"x"})
        (entry,) = await reading

    await janitor_of(redis, policy).remove_dead_consumers(jobs, -1)

    assert left == []
    assert queue.holders() == {entry.entry_id: Holder("live", 1)}


async def is_blocked(redis: Redis) -> bool:
    return bool((await redis.info("clients"))["blocked_clients"])


async def test_only_what_is_finished_is_trimmed(redis_url: str, policy: str, redis: Redis, queue: Queue) -> None:
    jobs = queue.jobs_key
    await redis.xgroup_create(jobs, GROUP, id="0", mkstream=True)
    for number in range(1, 6):
        await redis.xadd(jobs, {"payload": b"x"}, id=f"{number}-0")
    await redis.xreadgroup(GROUP, "holding", {jobs: ">"}, count=4)
    await redis.xack(jobs, GROUP, "1-0", "2-0", "4-0")

    trimmed = await janitor_of(redis, policy, seconds=0).trim(jobs)

    assert trimmed == 2
    assert [entry_id for entry_id, _ in queue.entries()] == ["3-0", "4-0", "5-0"]
