"""What is promised of parts when a reply is lost, Redis restarts, forgets all or is full."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from rollstream import AsyncClient, GenerationConfig, RolloutBatch
from rollstream.producer.batches.handle import BatchHandle
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.redis_io.connection import Connection
from rollstream.producer.replay.dead_letters import find, letters, requeue
from rollstream.schemas import Envelope, Keys
from rollstream.worker.delivery import parts as parts_module
from rollstream.worker.redis_io.connections import connect, retrying
from tests.schemas.wire.messages import int32
from tests.support.fault_steps import stub
from tests.support.faults import Link, Queue
from tests.support.lua import digest
from tests.support.partials.parts import (
    CONFIG,
    counted,
    deliver,
    error,
    finished,
    job_of,
    nbytes,
    part_of,
    parts_at,
    publisher,
    take,
    take_over,
    tokens_by_name,
)

JOB = job_of()
ENVELOPE = Envelope.of_job(JOB)
GIVEN = [part_of(JOB, 0, 0, 3), finished(JOB, 1, 1)]
THERE = {(0, 0): 3, (1, 1): 8}


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


async def test_a_lost_reply_writes_and_counts_once(redis: Redis, keys: Keys, link: Link) -> None:
    lease = await deliver(redis, keys, JOB)
    through = connect(link.url)
    parts = parts_at(through, keys)
    await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 2, 1)])  # from now on Redis knows the script by its digest
    link.lose_reply(to=digest("keep_parts.lua"))

    kept = await parts.keep(lease, ENVELOPE, GIVEN, within_s=20)
    await through.aclose()

    assert (link.lost, kept.written) == (1, 2)
    assert await counted(redis, keys, "b") == [nbytes(part_of(JOB, 0, 2, 1), *GIVEN)] * 2
    assert tokens_by_name(await parts_at(redis, keys).kept(lease, JOB, [0, 1])) == THERE | {(0, 2): 1}


async def test_what_comes_late_from_a_lost_connection_replaces_nothing_newer(redis: Redis, keys: Keys) -> None:
    parts, lease = parts_at(redis, keys), await deliver(redis, keys, JOB)
    await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 6)])
    lease_of_next = await take_over(redis, lease, "w2")
    await parts.keep(lease_of_next, ENVELOPE, [finished(JOB, 0, 1)])

    late = await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 7), part_of(JOB, 0, 1, 2)])
    same_lease = await parts.keep(lease_of_next, ENVELOPE, [part_of(JOB, 0, 0, 4), part_of(JOB, 0, 1, 5)])

    assert (late.is_lost, same_lease.is_lost) == (True, False)
    assert tokens_by_name(await parts.kept(lease_of_next, JOB, [0])) == {(0, 0): 6, (0, 1): 8}


@pytest.mark.parametrize("how", ["aof", "rdb"])
async def test_parts_outlive_a_redis_that_restarts(policy: str, how: str) -> None:
    keys = Keys(policy)
    with EmbeddedRedis(appendonly=how == "aof") as server:
        client = connect(server.url)
        lease = await deliver(client, keys, JOB)
        await parts_at(client, keys).keep(lease, ENVELOPE, GIVEN)
        if how == "rdb":
            await client.save()
        server.kill()
        server.start()
        parts = parts_at(client, keys)
        next_lease = await retrying("take over", take_over, client, lease, "w2")

        async with asyncio.timeout(30):
            found = await parts.kept(next_lease, JOB, [0, 1])
            kept = await parts.keep(next_lease, ENVELOPE, [part_of(JOB, 0, 0, 5)], within_s=20)
        sizes = await counted(client, keys, "b")
        await client.aclose()

    assert tokens_by_name(found) == THERE
    assert kept.written == 1
    assert sizes == [nbytes(part_of(JOB, 0, 0, 5), finished(JOB, 1, 1))] * 2


async def test_a_redis_that_lost_all_gets_no_parts_of_what_it_does_not_know(policy: str) -> None:
    keys = Keys(policy)
    with EmbeddedRedis() as server:
        client = connect(server.url)
        lease = await deliver(client, keys, JOB)
        parts = parts_at(client, keys)
        await parts.keep(lease, ENVELOPE, GIVEN)
        await client.flushall()

        kept = await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 5)])
        found: Any = await parts.kept(lease, JOB, [0, 1]), await client.dbsize()
        await client.aclose()

    assert (kept.written, kept.is_lost) == (0, True)
    assert found == ({}, 0)


async def test_a_redis_without_memory_costs_the_parts_and_a_short_wait(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(policy)
    monkeypatch.setattr(parts_module, "_SPARING_S", 0)
    with EmbeddedRedis() as server:
        client = connect(server.url)
        lease = await deliver(client, keys, JOB)
        parts = parts_at(client, keys)
        await client.config_set("maxmemory", 1)
        with capture_logs() as told:
            async with asyncio.timeout(20):
                kept = await parts.keep(lease, ENVELOPE, GIVEN, within_s=0.3)
        await client.config_set("maxmemory", 0)
        then = await parts.keep(lease, ENVELOPE, GIVEN)
        await client.aclose()

    assert (kept.written, kept.failed) == (0, 2)
    assert "maxmemory" in next(line["error"] for line in told if line["event"] == "parts not kept")
    assert then.written == 2


async def test_parts_make_room_for_an_answer_and_handed_in_samples_stay(policy: str) -> None:
    keys, job = Keys(policy), job_of(groups=3, config=GenerationConfig(max_new_tokens=2**17, num_return_sequences=4))
    with EmbeddedRedis() as server:
        client = connect(server.url)
        lease, envelope = await deliver(client, keys, job), Envelope.of_job(job)
        parts = parts_at(client, keys)
        await parts.keep(lease, envelope, [part_of(job, 0, sample, 2**16) for sample in range(4)])
        await parts.keep(lease, envelope, [finished(job, 1, 0)], bounded=False)
        used: Any = await client.info("memory")
        await client.config_set("maxmemory", used["used_memory"] - 2**20)
        async with asyncio.timeout(10):
            outcome = await publisher(client, keys, parts).publish(lease, envelope, error(2))
        spared = await parts.keep(lease, envelope, [part_of(job, 0, 0, 3)])
        found: Any = await client.hkeys(keys.parts("b"))
        await client.aclose()

    assert outcome == "published"
    assert {field for field in found if b":" in field} == {b"1:0", b"1:0:tokens"}
    assert (spared.written, spared.over_bound) == (0, 1)


async def left_by_a_dead_worker(redis: Redis, queue: Queue, trainer: AsyncClient) -> BatchHandle:
    """A batch of two groups whose first worker died; it had kept three tokens of one sample of each."""
    handle = await trainer.submit([[1], [2]], None, CONFIG, batch_id="b")
    lease, job = await take(redis, queue.keys, "dead")
    given = [part_of(job, group, 1, 3, token_ids=int32(31, 32, 33)) for group in job.groups]
    assert (await parts_at(redis, queue.keys).keep(lease, Envelope.of_job(job), given)).written == 2
    return handle


async def test_a_worker_that_keeps_nothing_goes_on_from_what_another_one_kept(
    redis: Redis, queue: Queue, trainer: AsyncClient, redis_url: str, policy: str
) -> None:
    handle = await left_by_a_dead_worker(redis, queue, trainer)

    with stub(redis_url, policy, lease_s=1):
        rollouts = await handle.result(timeout=30)

    assert rollouts.resumed_at is not None
    assert rollouts.resumed_at.tolist() == [0, 3, 0] * 2
    assert [row[:3] for row in rollouts.responses[1::3]] == [[31, 32, 33]] * 2
    assert {len(row) for row in rollouts.responses} == {8}
    assert await redis.exists(queue.keys.parts("b"), queue.keys.part_bytes(0)) == 0


async def test_parts_of_a_dead_letter_go_and_its_requeue_begins_from_the_prompts(
    redis: Redis, queue: Queue, trainer: AsyncClient, redis_url: str, policy: str
) -> None:
    handle = await left_by_a_dead_worker(redis, queue, trainer)

    with stub(redis_url, policy, "--max-deliveries", "1", lease_s=1):
        answers = await handle.wait(30)
        left = await redis.exists(queue.keys.parts("b"), queue.keys.part_bytes(0))
        again = await requeued(queue, redis_url)
        rollouts = await (await trainer.attach(again)).result(timeout=30)
        undisturbed = await trainer.generate([[1], [2]], None, CONFIG, timeout=30)

    assert [getattr(answer, "code", "") for answer in answers.values()] == ["too_many_deliveries"] * 2
    assert left == 0
    assert isinstance(rollouts, RolloutBatch)
    assert rollouts.resumed_at is None
    assert rollouts.responses == undisturbed.responses


async def requeued(queue: Queue, redis_url: str) -> str:
    """Queue the one dead letter again, and give the new batch's id."""
    connection = Connection(access=redis_url, reconnect_s=5)
    [listed] = [one async for one in letters(connection, queue.keys)]
    batch_id = await requeue(connection, queue.keys, await find(connection, queue.keys, listed.name))
    await connection.aclose()
    return batch_id
