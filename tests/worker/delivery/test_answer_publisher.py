"""The publish script: one result for each group, however often and by however many workers it is sent."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.schemas import Envelope, GroupError, Keys, Sealed, decode
from rollstream.schemas.keys import GROUP
from rollstream.worker.delivery.answer_publisher import AnswerPublisher
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.measure.measures import Measures
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.redis_io.pipelines import AT_ONCE
from rollstream.worker.versions.proofs import Proofs

BATCH = "b"
JOB = Envelope(batch_id=BATCH, job=0, first_group=0, job_groups=2, num_groups=2)


def error(group: int, worker: str = "w1") -> GroupError:
    return GroupError(batch_id=BATCH, group=group, code="too_long", field="prompt", message="m", worker=worker)


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


def publisher_of(redis: Redis, keys: Keys, measures: Measures | None = None) -> AnswerPublisher:
    return AnswerPublisher(
        redis=redis, keys=keys, result_ttl_s=100, measures=measures or Measures(), check_proven=Proofs().check
    )


@pytest.fixture
def publisher(redis: Redis, keys: Keys) -> AnswerPublisher:
    return publisher_of(redis, keys)


async def deliver(redis: Redis, keys: Keys, consumer: str = "w1", job: Envelope = JOB) -> Lease:
    """Queue an entry and have it delivered to `consumer`."""
    jobs_key = keys.jobs(0)
    if not await redis.exists(jobs_key):
        await redis.xgroup_create(jobs_key, GROUP, id="0", mkstream=True)
    fields: Any = job.fields(b"")
    entry_id: Any = await redis.xadd(jobs_key, fields)
    await redis.xreadgroup(GROUP, consumer, {jobs_key: ">"}, count=1)
    return Lease(
        jobs_key=jobs_key,
        dead_key=keys.dead(0),
        entry_id=entry_id.decode(),
        consumer=consumer,
        delivery=1,
        ends_at=math.inf,
    )


async def take_over(redis: Redis, lease: Lease, consumer: str) -> Lease:
    """What a recoverer does with an entry whose lease ran out: a second delivery."""
    await redis.xclaim(lease.jobs_key, GROUP, consumer, 0, [lease.entry_id])
    return replace(lease, consumer=consumer, delivery=2)


async def results(redis: Redis, keys: Keys) -> list[GroupError | Sealed]:
    entries: Any = await redis.xrange(keys.results(BATCH))
    kinds: tuple[type[GroupError | Sealed], ...] = (GroupError, Sealed)
    return [decode(fields[b"payload"], *kinds) for _, fields in entries]


async def pending(redis: Redis, keys: Keys) -> int:
    return int((await redis.xpending(keys.jobs(0), GROUP))["pending"])


async def test_the_last_group_acknowledges_the_job_and_seals_the_batch(
    redis: Redis, keys: Keys, publisher: AnswerPublisher
) -> None:
    lease = await deliver(redis, keys)

    assert await publisher.publish(lease, JOB, error(1)) == "published"
    assert (await pending(redis, keys), len(await results(redis, keys))) == (1, 1)
    assert await redis.ttl(keys.results(BATCH)) == -1

    assert await publisher.publish(lease, JOB, error(0)) == "published"
    assert await pending(redis, keys) == 0
    assert await results(redis, keys) == [error(1), error(0), Sealed(batch_id=BATCH, num_groups=2)]
    assert 0 < await redis.ttl(keys.results(BATCH)) <= 100
    assert 0 < await redis.ttl(keys.ledger(BATCH)) <= 100


@pytest.mark.parametrize("group", [0, 1])
async def test_a_publish_whose_reply_was_lost_is_sent_again_without_effect(
    redis: Redis, keys: Keys, publisher: AnswerPublisher, group: int
) -> None:
    lease = await deliver(redis, keys)
    await publisher.publish(lease, JOB, error(0))
    await publisher.publish(lease, JOB, error(1))

    assert await publisher.publish(lease, JOB, error(group)) == "published"

    assert len(await results(redis, keys)) == 3


async def test_a_worker_that_lost_its_lease_writes_nothing(
    redis: Redis, keys: Keys, publisher: AnswerPublisher
) -> None:
    zombie = await deliver(redis, keys, "zombie")
    await take_over(redis, zombie, "rescuer")

    assert await publisher.publish(zombie, JOB, error(0, "zombie")) == "fenced"

    assert await results(redis, keys) == []
    assert not await redis.exists(keys.ledger(BATCH))


async def test_each_answer_counts_by_what_became_of_it(redis: Redis, keys: Keys) -> None:
    measures = Measures()
    publisher = AnswerPublisher(
        redis=redis, keys=keys, result_ttl_s=100, measures=measures, check_proven=Proofs().check
    )
    first = await deliver(redis, keys, "w1")
    await publisher.publish(first, JOB, error(0))
    second = await take_over(redis, first, "w2")
    for lease, group in ((second, 0), (first, 1)):
        await publisher.publish(lease, JOB, error(group))
    publisher.fenced(first, 0, 1)

    assert measures.groups == {"result": 0, "error": 1, "duplicate": 1, "fenced": 3, "cut": 0}
    assert measures.published == measures.group_errors["too_long"] == 1


async def test_an_earlier_delivery_to_the_same_consumer_is_fenced_too(
    redis: Redis, keys: Keys, publisher: AnswerPublisher
) -> None:
    first = await deliver(redis, keys)
    second = await take_over(redis, first, first.consumer)

    assert await publisher.publish(first, JOB, error(0)) == "fenced"
    assert await publisher.publish(second, JOB, error(0)) == "published"


async def test_a_second_delivery_keeps_the_first_answers_and_still_finishes_the_job(
    redis: Redis, keys: Keys, publisher: AnswerPublisher
) -> None:
    first = await deliver(redis, keys, "w1")
    await publisher.publish(first, JOB, error(0, "w1"))
    second = await take_over(redis, first, "w2")

    assert await publisher.publish(second, JOB, error(0, "w2")) == "duplicate"
    assert await publisher.publish(second, JOB, error(1, "w2")) == "published"

    assert await results(redis, keys) == [error(0, "w1"), error(1, "w2"), Sealed(batch_id=BATCH, num_groups=2)]
    assert await pending(redis, keys) == 0


async def test_two_entries_that_name_the_same_groups_answer_each_group_once_and_both_end(
    redis: Redis, keys: Keys, publisher: AnswerPublisher
) -> None:
    one, other = await deliver(redis, keys, "w1"), await deliver(redis, keys, "w2", replace(JOB, job=1))

    for lease, job in ((one, JOB), (other, replace(JOB, job=1))):
        for group in (0, 1):
            await publisher.publish(lease, job, error(group, lease.consumer))

    assert await results(redis, keys) == [error(0, "w1"), error(1, "w1"), Sealed(batch_id=BATCH, num_groups=2)]
    assert await pending(redis, keys) == 0


async def test_an_entry_that_is_gone_with_its_stream_is_fenced(
    redis: Redis, keys: Keys, publisher: AnswerPublisher
) -> None:
    lease = await deliver(redis, keys)
    await redis.delete(keys.jobs(0))

    assert await publisher.publish(lease, JOB, error(0)) == "fenced"


async def test_a_result_that_redis_refuses_leaves_no_mark_and_is_published_once_it_may_be(
    redis: Redis, redis_url: str, keys: Keys, policy: str
) -> None:
    lease = await deliver(redis, keys)
    rights: Any = redis
    await rights.execute_command("ACL", "SETUSER", policy, "on", ">secret", "~*", "+@all", "-xadd")
    refused = connect(redis_url.replace("redis://", f"redis://{policy}:secret@"))
    publisher = AnswerPublisher(
        redis=refused, keys=keys, result_ttl_s=100, measures=Measures(), check_proven=Proofs().check
    )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await publisher.publish(lease, JOB, error(0))
    marked = await redis.hexists(keys.ledger(BATCH), "g:0")

    await rights.execute_command("ACL", "SETUSER", policy, "+xadd")
    outcome = await publisher.publish(lease, JOB, error(0))
    await refused.aclose()

    assert (marked, outcome) == (False, "published")
    assert await results(redis, keys) == [error(0)]
    assert await redis.hget(keys.ledger(BATCH), "done") == b"1"


async def test_a_job_of_many_groups_takes_few_connections(redis: Redis, keys: Keys, publisher: AnswerPublisher) -> None:
    job = Envelope(batch_id=BATCH, job=0, first_group=0, job_groups=500, num_groups=500)
    lease = await deliver(redis, keys, job=job)
    before = await connections(redis)

    outcomes = await asyncio.gather(*(publisher.publish(lease, job, error(group)) for group in range(500)))

    assert set(outcomes) == {"published"}
    assert await connections(redis) - before <= AT_ONCE


async def connections(redis: Redis) -> int:
    info: Any = await redis.info("clients")
    return int(info["connected_clients"])
