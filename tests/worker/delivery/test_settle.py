"""The settle script: a job is acknowledged by its holder alone, once all its groups have an answer, whosever."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.schemas import Envelope, Keys
from rollstream.schemas.keys import GROUP
from rollstream.worker.delivery.answer_publisher import AnswerPublisher, JobState
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.measure.measures import Measures
from rollstream.worker.versions.proofs import Proofs

BATCH = "b"
JOB = Envelope(batch_id=BATCH, job=0, first_group=9, job_groups=2, num_groups=11)


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


@pytest.fixture
def publisher(redis: Redis, keys: Keys) -> AnswerPublisher:
    return AnswerPublisher(redis=redis, keys=keys, result_ttl_s=100, measures=Measures(), check_proven=Proofs().check)


@pytest.fixture
async def lease(redis: Redis, keys: Keys) -> Lease:
    """The lease of a delivered job."""
    jobs_key = keys.jobs(0)
    await redis.xgroup_create(jobs_key, GROUP, id="0", mkstream=True)
    fields: Any = JOB.fields(b"")
    entry_id: Any = await redis.xadd(jobs_key, fields)
    await redis.xreadgroup(GROUP, "w1", {jobs_key: ">"}, count=1)
    return Lease(
        jobs_key=jobs_key,
        dead_key=keys.dead(0),
        entry_id=entry_id.decode(),
        consumer="w1",
        delivery=1,
        ends_at=math.inf,
    )


async def answer(redis: Redis, keys: Keys, *groups: int) -> None:
    await redis.hset(keys.ledger(BATCH), mapping={f"g:{group}": "1-0|other|1" for group in groups})


async def pending(redis: Redis, keys: Keys) -> int:
    return int((await redis.xpending(keys.jobs(0), GROUP))["pending"])


async def test_a_job_that_others_have_answered_is_acknowledged_once(
    redis: Redis, keys: Keys, publisher: AnswerPublisher, lease: Lease
) -> None:
    await answer(redis, keys, 9, 10)

    assert await publisher.settle(lease, JOB) == "acknowledged"
    assert await pending(redis, keys) == 0
    assert await publisher.settle(lease, JOB) == "fenced"


@pytest.mark.parametrize("answered", [9, 10])
async def test_a_job_with_a_group_that_has_no_answer_stays_pending(
    redis: Redis, keys: Keys, publisher: AnswerPublisher, lease: Lease, answered: int
) -> None:
    await answer(redis, keys, answered, 8, 11)

    assert await publisher.settle(lease, JOB) == "unanswered"
    assert await pending(redis, keys) == 1


async def test_a_worker_that_lost_its_lease_acknowledges_nothing(
    redis: Redis, keys: Keys, publisher: AnswerPublisher, lease: Lease
) -> None:
    await answer(redis, keys, 9, 10)
    await redis.xclaim(lease.jobs_key, GROUP, "w2", 0, [lease.entry_id])

    assert await publisher.settle(lease, JOB) == "fenced"
    assert await publisher.settle(replace(lease, consumer="w2"), JOB) == "fenced"
    assert await pending(redis, keys) == 1
    assert await publisher.settle(replace(lease, consumer="w2", delivery=2), JOB) == "acknowledged"


async def test_a_job_whose_batch_has_expired_is_acknowledged(
    redis: Redis, keys: Keys, publisher: AnswerPublisher, lease: Lease
) -> None:
    assert await publisher.settle(lease, JOB) == "acknowledged"
    assert await pending(redis, keys) == 0
    assert not await redis.exists(keys.ledger(BATCH))


@pytest.mark.parametrize(
    ("has_ledger", "waited_s", "outlived"),
    [(False, 101.0, True), (False, 99.0, False), (False, None, False), (True, 101.0, False)],
)
def test_a_job_outlives_its_batch_once_its_results_may_have_expired(
    publisher: AnswerPublisher, has_ledger: bool, waited_s: float | None, outlived: bool
) -> None:
    state = JobState(cancelled=False, unanswered=[9, 10], has_ledger=has_ledger)

    assert publisher.has_outlived(state, waited_s) == outlived


async def test_an_entry_that_is_gone_with_its_stream_is_fenced(
    redis: Redis, keys: Keys, publisher: AnswerPublisher, lease: Lease
) -> None:
    await redis.delete(keys.jobs(0))

    assert await publisher.settle(lease, JOB) == "fenced"


async def test_what_the_ledger_says_of_a_job(redis: Redis, keys: Keys, publisher: AnswerPublisher) -> None:
    assert await publisher.job_state(JOB) == JobState(cancelled=False, unanswered=[9, 10], has_ledger=False)
    await answer(redis, keys, 9, 0)
    assert await publisher.job_state(JOB) == JobState(cancelled=False, unanswered=[10])
    await redis.hset(keys.ledger(BATCH), "cancelled", "1700000000.0")
    assert await publisher.job_state(JOB) == JobState(cancelled=True, unanswered=[10])
