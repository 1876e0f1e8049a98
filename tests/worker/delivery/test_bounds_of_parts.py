"""The bytes of parts are bounded: those of a message, of a worker and of a policy."""

from __future__ import annotations

import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream.schemas import Envelope, GenerationConfig, Keys, Tensor
from rollstream.worker.delivery.parts import Parts
from rollstream.worker.measure.measures import Measures
from tests.support.partials.parts import counted, deliver, error, finished, job_of, nbytes, part_of, parts_at, publisher

JOB = job_of()
ENVELOPE = Envelope.of_job(JOB)


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


@pytest.fixture
def parts(redis: Redis, keys: Keys) -> Parts:
    return parts_at(redis, keys)


async def test_the_bytes_of_one_worker_are_bounded_until_groups_are_answered(redis: Redis, keys: Keys) -> None:
    size = nbytes(part_of(JOB, 0, 0, 3))
    measures = Measures()
    parts = parts_at(redis, keys, most_bytes=2 * size, measures=measures)
    lease = await deliver(redis, keys, JOB)

    kept = await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, sample, 3) for sample in (0, 1, 2)])
    await publisher(redis, keys, parts).publish(lease, ENVELOPE, error(0))
    then = await parts.keep(lease, ENVELOPE, [part_of(JOB, 1, sample, 3) for sample in (0, 1)])

    assert (kept.written, kept.over_bound) == (2, 1)
    assert (then.written, then.over_bound) == (2, 0)
    assert (measures.parts["kept"], measures.parts["over_bound"]) == (4, 1)
    assert measures.part_bytes_held == 2 * size
    parts.let_go(lease)
    assert measures.part_bytes_held == 0


async def test_a_redis_that_is_nearly_full_gets_only_what_other_jobs_wait_for(
    redis: Redis, keys: Keys, parts: Parts
) -> None:
    lease, is_full = await deliver(redis, keys, JOB), True
    parts.nearly_full = lambda: is_full

    running = await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3)])
    handed_in = await parts.keep(lease, ENVELOPE, [finished(JOB, 0, 1)], bounded=False)
    is_full = False
    later = await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3)])

    assert (running.written, running.over_bound) == (0, 1)
    assert (handed_in.written, later.written) == (1, 1)


async def test_the_bytes_of_a_policy_are_bounded_in_redis(redis: Redis, keys: Keys) -> None:
    size = nbytes(part_of(JOB, 0, 0, 3))
    lease = await deliver(redis, keys, JOB)
    ours, others = (parts_at(redis, keys, most_policy_bytes=2 * size) for _ in range(2))
    other = job_of("c")
    other_lease = await deliver(redis, keys, other, "w2")

    first = await ours.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3)])
    second = await others.keep(other_lease, Envelope.of_job(other), [part_of(other, 0, s, 3) for s in (0, 1)])
    more = await ours.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 4)])
    finished_anyway = await ours.keep(lease, ENVELOPE, [finished(JOB, 0, 1)], bounded=False)

    assert (first.written, second.written, second.over_bound) == (1, 1, 1)
    assert (more.written, more.over_bound) == (0, 1)
    assert finished_anyway.written == 1
    assert await counted(redis, keys, "b", "c") == [
        2 * size + nbytes(finished(JOB, 0, 1)),
        size + nbytes(finished(JOB, 0, 1)),
        size,
    ]


async def test_bytes_of_parts_that_expired_count_no_more_once_the_batch_has_new_ones(redis: Redis, keys: Keys) -> None:
    parts = parts_at(redis, keys, most_policy_bytes=nbytes(part_of(JOB, 0, 0, 5)))
    lease = await deliver(redis, keys, JOB)
    await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 5)])
    await redis.delete(keys.parts("b"))

    kept = await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 1, 5)])

    assert kept.written == 1
    assert await counted(redis, keys, "b") == [nbytes(part_of(JOB, 0, 1, 5))] * 2


async def test_a_message_too_large_for_a_reader_is_left_out(
    redis: Redis, keys: Keys, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollstream.schemas.wire.sizes.limits.MAX_BYTES", 2**20)
    job = job_of(config=GenerationConfig(max_new_tokens=2**20))
    long = part_of(
        job, 0, 0, 2**19, logprobs=None, logprobs_flavour=None, token_ids=Tensor.of(np.zeros(2**19, np.int32))
    )

    kept = await parts.keep(await deliver(redis, keys, job), Envelope.of_job(job), [long])

    assert (kept.written, kept.over_bound) == (0, 1)
