"""The sums of a partition: kept by the scripts, true after repeats, cancels and half submits, and never in the way."""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, Client, GenerationConfig
from rollstream.producer.batches import scripts as batch_scripts
from rollstream.producer.batches.prompts import Prompts
from rollstream.producer.batches.submission import Submission, split
from rollstream.producer.order.slicing import Slicing
from rollstream.schemas import Envelope
from rollstream.schemas.hashes.totals import Totals
from rollstream.schemas.keys import GROUP, totals
from rollstream.worker.delivery import scripts
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.redis_io.streams import create_group
from tests.support.fault_steps import stub
from tests.support.faults import Link, Queue

CONFIG = GenerationConfig(max_new_tokens=4, num_return_sequences=2)
A_GROUP = 8
"""Tokens that a group of `CONFIG` asks for."""


def counted(queue: Queue) -> Totals:
    return Totals.of(cast("dict[bytes, bytes]", queue.redis.hgetall(totals(queue.jobs_key))))


def queued(jobs: int, groups: int, **others: int) -> Totals:
    return Totals(jobs_queued=jobs, groups_queued=groups, tokens_queued=A_GROUP * groups, **others)


def batch_of(groups: int, prompts_per_job: int = 1) -> Submission:
    prompts = Prompts.of(np.arange(1, groups + 1).reshape(groups, 1), None)
    return split(
        prompts, CONFIG, batch_id="b", adapter=None, slicing=Slicing(prompts_per_job=prompts_per_job), submitted_at=1.0
    )


async def queue_jobs(redis: Redis, queue: Queue, batch: Submission, jobs: int) -> list[tuple[Lease, Envelope]]:
    """Queue the first jobs of the batch, and lease them."""
    await create_group(redis, queue.jobs_key)
    await batch_scripts.submit(redis, batch_scripts.submit_call(queue.keys, batch, batch.jobs[:jobs]), 0)
    read: Any = await redis.xreadgroup(GROUP, "w", {queue.jobs_key: ">"})
    return [
        (
            Lease(
                jobs_key=queue.jobs_key,
                dead_key=queue.keys.dead(0),
                entry_id=entry_id.decode(),
                consumer="w",
                delivery=1,
                ends_at=time.monotonic() + 30,
            ),
            Envelope.of(fields),
        )
        for entry_id, fields in read[0][1]
    ]


async def answer(redis: Redis, queue: Queue, lease: Lease, job: Envelope, group: int) -> str:
    call = scripts.publish_call(lease, queue.keys, job, group=group, kind="error", payload=b"x", sealed=b"s", keep_s=60)
    return await scripts.publish(lambda call: call.to(redis), call)


async def cancel(redis: Redis, queue: Queue, batch: Submission, first: int, groups: int) -> object:
    return await batch_scripts.cancel(
        redis, queue.keys, batch.batch, now=1.0, keep_s=60, sealed=b"s", first_group=first, answers=[b"x"] * groups
    )


def test_what_is_answered_is_no_longer_open(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    with stub(redis_url, policy):
        client.submit([[1], [2], [3]], None, CONFIG, prompts_per_job=2).result(timeout=20)
    client.submit([[4]], None, CONFIG)

    found = counted(queue)
    assert found == queued(3, 4, groups_answered=3, tokens_answered=3 * A_GROUP, jobs_acknowledged=2)
    assert (found.open_groups, found.open_tokens) == (1, A_GROUP)


async def test_a_submit_that_is_sent_again_counts_once(client: Client, queue: Queue, link: Link, policy: str) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as trainer:
        link.lose_reply(to=b"EVAL")
        await trainer.submit([[1], [2]], None, CONFIG, batch_id="b")
    client.submit([[1], [2]], None, CONFIG, batch_id="b")

    assert link.lost == 1
    assert counted(queue) == queued(1, 2)


async def test_a_publish_that_is_sent_again_counts_once(redis: Redis, queue: Queue) -> None:
    ((lease, job),) = await queue_jobs(redis, queue, batch_of(2, prompts_per_job=2), 1)

    assert [await answer(redis, queue, lease, job, group) for group in (0, 0, 1, 1)] == ["published"] * 4
    assert counted(queue) == queued(1, 2, groups_answered=2, tokens_answered=2 * A_GROUP, jobs_acknowledged=1)


async def test_an_answer_of_another_entry_counts_once(redis: Redis, queue: Queue) -> None:
    """The same job was queued twice, as after a Redis that lost its last second."""
    batch = batch_of(1)
    first = await queue_jobs(redis, queue, batch, 1)
    queue.redis.hdel(queue.keys.ledger("b"), "job:0")
    second = await queue_jobs(redis, queue, batch, 1)

    outcomes = [await answer(redis, queue, *entry, group=0) for entry in (*first, *second)]

    assert outcomes == ["published", "duplicate"]
    assert (counted(queue).groups_answered, counted(queue).jobs_acknowledged) == (1, 2)


async def test_a_job_that_others_answered_is_acknowledged_in_the_sums_once(redis: Redis, queue: Queue) -> None:
    batch = batch_of(1)
    ((lease, job),) = await queue_jobs(redis, queue, batch, 1)
    assert await cancel(redis, queue, batch, 0, 1) == 1

    settled = [await scripts.settle(redis, lease, ledger=queue.keys.ledger("b"), job=job) for _ in range(2)]

    assert settled == ["acknowledged", "fenced"]
    assert counted(queue) == queued(1, 1, groups_cancelled=1, tokens_cancelled=A_GROUP, jobs_acknowledged=1)


async def test_a_cancel_counts_what_it_answered_and_once(redis: Redis, queue: Queue) -> None:
    batch = batch_of(3)
    (lease, job), *_ = await queue_jobs(redis, queue, batch, 3)
    await answer(redis, queue, lease, job, 0)

    assert [await cancel(redis, queue, batch, 0, 3) for _ in range(2)] == [2, 2]
    found = counted(queue)
    assert (found.groups_answered, found.groups_cancelled, found.tokens_cancelled) == (1, 2, 2 * A_GROUP)
    assert (found.open_groups, found.open_tokens) == (0, 0)


@pytest.mark.parametrize("slices", [[(0, 4)], [(0, 1), (2, 2), (1, 1)], [(3, 1), (2, 1), (0, 2)]])
async def test_groups_that_were_never_queued_are_not_counted_whenever_they_are_answered(
    redis: Redis, queue: Queue, slices: list[tuple[int, int]]
) -> None:
    batch = batch_of(4)
    entries = await queue_jobs(redis, queue, batch, 2)
    for number, (first, groups) in enumerate(slices):
        await cancel(redis, queue, batch, first, groups)
        if number == 0:
            await answer(redis, queue, *entries[1], group=1)

    found = counted(queue)
    assert found.groups_queued == 2 == found.groups_answered + found.groups_cancelled
    assert (found.open_groups, found.open_tokens) == (0, 0)
    assert queue.redis.hget(queue.keys.ledger("b"), "done") == b"4"


@pytest.mark.parametrize("ledger", [True, False])
async def test_a_burial_counts_once(redis: Redis, queue: Queue, ledger: bool) -> None:
    ((lease, _),) = await queue_jobs(redis, queue, batch_of(2, prompts_per_job=2), 1)
    key = queue.keys.ledger("b") if ledger else None

    outcomes = [
        await scripts.bury(redis, lease, dead_key=lease.dead_key, ledger=key, letter=b"letter") for _ in range(2)
    ]

    assert outcomes == ["buried", "buried" if ledger else "fenced"]
    found = counted(queue)
    assert (found.jobs_buried, found.tokens_buried, found.jobs_acknowledged) == (1, 2 * A_GROUP, 0 if ledger else 1)


def test_totals_that_became_something_else_stop_nothing(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.set(totals(queue.jobs_key), "no totals")
    with stub(redis_url, policy):
        assert client.submit([[1], [2]], None, CONFIG).result(timeout=20).errors == {}
    cancelled = client.submit([[3]], None, CONFIG)
    assert cancelled.cancel() == 1
    assert queue.dead() == []


def test_a_batch_of_an_older_release_counts_nowhere(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    """Its submit counted nothing, so its answers must not either."""
    handle = client.submit([[1]], None, CONFIG, batch_id="old")
    queue.redis.hdel(queue.keys.ledger("old"), "queued")
    queue.redis.delete(totals(queue.jobs_key))
    with stub(redis_url, policy):
        handle.result(timeout=20)

    assert counted(queue) == Totals(jobs_acknowledged=1)


@pytest.mark.parametrize("value", [b"", b"x", b"-3", b"9" * 30, "\u0663".encode()])
def test_a_sum_that_is_none_reads_as_zero(value: bytes) -> None:
    assert Totals.of({b"groups_queued": value, b"jobs_queued": b"2", b"later": b"5"}) == Totals(jobs_queued=2)
