"""Parts are kept and read again, fenced, and go with the answer of their group."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.schemas import Envelope, Keys
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.hashes.part_fields import part_field, tokens_field
from rollstream.schemas.times import PARTS_TTL_S
from rollstream.worker.delivery.parts import Parts
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
    take_over,
    tokens_by_name,
)

JOB = job_of()
ENVELOPE = Envelope.of_job(JOB)


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


@pytest.fixture
def parts(redis: Redis, keys: Keys) -> Parts:
    return parts_at(redis, keys)


async def test_the_next_delivery_gets_what_the_last_one_kept(redis: Redis, keys: Keys, parts: Parts) -> None:
    lease = await deliver(redis, keys, JOB)
    given = [part_of(JOB, 0, 0, 3), part_of(JOB, 0, 2, 5, resumed_at=2), finished(JOB, 1, 1)]

    kept = await parts.keep(lease, ENVELOPE, given)
    next_lease = await take_over(redis, lease, "w2")
    found = await parts_at(redis, keys).kept(next_lease, JOB, [0, 1])

    assert (kept.written, kept.is_lost) == (3, False)
    assert found == {0: {0: given[0], 2: given[1]}, 1: {1: given[2]}}
    assert await counted(redis, keys, "b") == [nbytes(*given)] * 2
    assert 0 < await redis.ttl(keys.parts("b")) <= PARTS_TTL_S
    assert 0 < await redis.ttl(keys.part_bytes(0)) <= PARTS_TTL_S


async def test_more_parts_than_one_call_takes_are_all_kept_and_read(redis: Redis, keys: Keys, parts: Parts) -> None:
    config = CONFIG.model_copy(update={"num_return_sequences": 1024, "max_new_tokens": 2000})
    job = job_of(config=config)
    given = [part_of(job, group, sample, 1000) for group in (0, 1) for sample in range(700)]
    lease = await deliver(redis, keys, job)

    kept = await parts.keep(lease, Envelope.of_job(job), given)
    found = await parts.kept(await take_over(redis, lease, "w2"), job, [0, 1])

    assert kept.written == 1400
    assert tokens_by_name(found) == {(part.group, part.sample): 1000 for part in given}


async def test_parts_that_were_to_stay_longer_do(redis: Redis, keys: Keys, parts: Parts) -> None:
    lease = await deliver(redis, keys, JOB)
    await parts.keep(lease, ENVELOPE, [finished(JOB, 0, 0)])
    await redis.expire(keys.parts("b"), 7 * PARTS_TTL_S)

    await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 1, 3)])

    assert await redis.ttl(keys.parts("b")) > 6 * PARTS_TTL_S


async def test_only_more_tokens_or_an_end_replace_a_part(redis: Redis, keys: Keys, parts: Parts) -> None:
    lease = await deliver(redis, keys, JOB)
    reached = []

    for part in (
        part_of(JOB, 0, 0, 4),
        part_of(JOB, 0, 0, 3),
        part_of(JOB, 0, 0, 5),
        part_of(JOB, 0, 0, 2, finish_reason="stop"),
        part_of(JOB, 0, 0, 7),
    ):
        assert (await parts.keep(lease, ENVELOPE, [part])).written == 1
        reached.append(tokens_by_name(await parts.kept(lease, JOB, [0]))[0, 0])

    assert reached == [4, 4, 5, 2, 2]
    assert await counted(redis, keys, "b") == [nbytes(part_of(JOB, 0, 0, 2, finish_reason="stop"))] * 2


async def test_the_same_parts_sent_again_change_nothing(redis: Redis, keys: Keys, parts: Parts) -> None:
    lease = await deliver(redis, keys, JOB)
    given = [part_of(JOB, 0, 0, 3), finished(JOB, 1, 1)]
    await parts.keep(lease, ENVELOPE, given)
    before: Any = await redis.hgetall(keys.parts("b")), await counted(redis, keys, "b")

    again = await parts.keep(lease, ENVELOPE, given)

    assert again.written == 2
    assert (await redis.hgetall(keys.parts("b")), await counted(redis, keys, "b")) == before


async def test_a_fenced_worker_changes_nothing(redis: Redis, keys: Keys, parts: Parts) -> None:
    lease = await deliver(redis, keys, JOB)
    await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3)])
    next_lease = await take_over(redis, lease, "w2")

    late = await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 6), finished(JOB, 1, 1)])

    assert (late.written, late.unwanted, late.is_lost) == (0, 2, True)
    assert tokens_by_name(await parts.kept(next_lease, JOB, [0, 1])) == {(0, 0): 3}


@pytest.mark.parametrize("mark", [{"cancelled": "1.000"}, {"g:0": "1-0|w|1"}], ids=["cancelled", "answered"])
async def test_nothing_is_kept_that_nobody_needs(redis: Redis, keys: Keys, parts: Parts, mark: Any) -> None:
    lease = await deliver(redis, keys, JOB)
    await redis.hset(keys.ledger("b"), mapping=mark)

    kept = await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3)])

    assert (kept.written, kept.unwanted, kept.is_lost) == (0, 1, False)
    assert await redis.exists(keys.parts("b"), keys.part_bytes(0)) == 0


async def test_nothing_is_kept_of_a_batch_that_expired(redis: Redis, keys: Keys, parts: Parts) -> None:
    lease = await deliver(redis, keys, JOB)
    await redis.delete(keys.ledger("b"))

    assert (await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3)])).unwanted == 1
    assert await redis.exists(keys.parts("b"), keys.part_bytes(0)) == 0


async def test_parts_go_with_the_answer_of_their_group(redis: Redis, keys: Keys, parts: Parts) -> None:
    lease = await deliver(redis, keys, JOB)
    await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3), part_of(JOB, 0, 2, 3), part_of(JOB, 1, 0, 4)])
    answers = publisher(redis, keys, parts)

    await answers.publish(lease, ENVELOPE, error(0))
    left, bytes_left = await redis.hkeys(keys.parts("b")), await counted(redis, keys, "b")
    await answers.publish(lease, ENVELOPE, error(1))

    assert sorted(left) == [b"1", part_field(1, 0).encode(), tokens_field(1, 0).encode()]
    assert bytes_left == [nbytes(part_of(JOB, 1, 0, 4))] * 2
    assert await redis.exists(keys.parts("b"), keys.part_bytes(0)) == 0


async def test_a_later_delivery_that_only_answers_errors_takes_the_parts_away(redis: Redis, keys: Keys) -> None:
    lease = await deliver(redis, keys, JOB)
    await parts_at(redis, keys).keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3), part_of(JOB, 1, 2, 3)])
    next_lease = await take_over(redis, lease, "w2")
    answers = publisher(redis, keys, parts_at(redis, keys))

    for group in (0, 1):
        await answers.publish(next_lease, ENVELOPE, error(group))

    assert await redis.exists(keys.parts("b"), keys.part_bytes(0)) == 0


async def test_a_part_with_tokens_of_an_unproven_version_does_not_leave(redis: Redis, keys: Keys, parts: Parts) -> None:
    lease = await deliver(redis, keys, JOB)

    kept = await parts.keep(
        lease, ENVELOPE, [part_of(JOB, 0, 0, 4, version_spans=((0, 3), (9, 1))), part_of(JOB, 0, 1, 4)]
    )

    assert (kept.written, kept.unproven) == (1, 1)
    assert tokens_by_name(await parts.kept(lease, JOB, [0])) == {(0, 1): 4}


async def test_a_first_delivery_costs_its_publish_no_key_and_no_command(redis: Redis, keys: Keys, parts: Parts) -> None:
    job = Envelope.of_job(job_of(groups=4))
    lease = await deliver(redis, keys, job_of(groups=4))
    calls = []

    for group, kept in ((0, None), (1, None), (2, parts)):  # the first makes the script known
        before: Any = await redis.info("commandstats")
        await publisher(redis, keys, kept).publish(lease, job, error(group))
        after: Any = await redis.info("commandstats")
        calls.append({name: one["calls"] - before.get(name, {"calls": 0})["calls"] for name, one in after.items()})

    assert calls[1] == calls[2]
    assert calls[1]["cmdstat_evalsha"] == 1
    assert await redis.exists(keys.parts("b"), keys.part_bytes(0)) == 0


async def test_a_later_delivery_of_which_nothing_was_kept_costs_no_more_than_the_look(
    redis: Redis, keys: Keys, parts: Parts
) -> None:
    next_lease = await take_over(redis, await deliver(redis, keys, JOB), "w2")

    assert parts.may_have(next_lease, 0)
    assert await parts.kept(next_lease, JOB, [0, 1]) == {}

    assert not parts.may_have(next_lease, 0)


async def test_keeping_ends_in_time_when_redis_is_silent(redis: Redis, keys: Keys, parts: Parts) -> None:
    lease = await deliver(redis, keys, JOB)
    await redis.client_pause(60_000, all=False)
    try:
        async with asyncio.timeout(20):
            kept = await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3)], within_s=0.2)
    finally:
        await redis.client_unpause()

    assert (kept.written, kept.failed) == (0, 1)
    assert parts.may_have(lease, 0), "the lost command may still have written it"


@pytest.mark.parametrize("key", ["parts", "part_bytes"])
async def test_a_key_of_another_type_costs_only_the_parts(redis: Redis, keys: Keys, parts: Parts, key: str) -> None:
    lease = await deliver(redis, keys, JOB)
    foreign = keys.parts("b") if key == "parts" else keys.part_bytes(0)
    await redis.set(foreign, "not ours", ex=600)

    kept = await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3)])
    found = await parts.kept(await take_over(redis, lease, "w2"), JOB, [0, 1])

    assert (kept.written, kept.failed, found) == (0, 1, {})


@pytest.mark.parametrize("key", ["parts", "part_bytes"])
async def test_an_answer_is_published_although_a_key_of_parts_has_another_type(
    redis: Redis, keys: Keys, parts: Parts, key: str
) -> None:
    lease = await deliver(redis, keys, JOB)
    await parts.keep(lease, ENVELOPE, [part_of(JOB, 0, 0, 3)])
    foreign = keys.parts("b") if key == "parts" else keys.part_bytes(0)
    await redis.set(foreign, "not ours", ex=600)

    assert await publisher(redis, keys, parts).publish(lease, ENVELOPE, error(0)) == "published"
    assert await redis.hexists(keys.ledger("b"), LedgerField.group(0))
