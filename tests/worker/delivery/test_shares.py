"""The share script: who has the last samples of a group is told so, whatever is repeated, lost or taken over."""

from __future__ import annotations

import math
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.schemas import Envelope, Keys
from rollstream.schemas.hashes.part_fields import FINISHED, tokens_field
from rollstream.schemas.keys import GROUP
from rollstream.schemas.times import SHARES_TTL_S
from rollstream.schemas.wire.shares import Share
from rollstream.worker.delivery import scripts
from rollstream.worker.delivery.answer_publisher import AnswerPublisher
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.measure.measures import Measures
from rollstream.worker.versions.proofs import Proofs

BATCH, SAMPLES = "b", 5
SHARES = [Share(first=first, samples=min(2, SAMPLES - first), of=SAMPLES) for first in (0, 2, 4)]


class Sharing:
    """Three jobs of the same two groups, each with some of their samples, and each held by a worker of its own."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.redis = redis
        self.keys = keys
        self.jobs = [
            Envelope(
                batch_id=BATCH,
                job=job,
                first_group=3,
                job_groups=2,
                num_groups=8,
                tokens=2 * share.samples * 4,
                share=share,
            )
            for job, share in enumerate(SHARES)
        ]  # fmt: skip
        self.leases: list[Lease] = []
        self.publisher = AnswerPublisher(
            redis=redis, keys=keys, result_ttl_s=100, measures=Measures(), check_proven=Proofs().check
        )

    async def queue(self) -> None:
        await self.redis.xgroup_create(self.keys.jobs(0), GROUP, id="0", mkstream=True)
        await self.redis.hset(self.keys.ledger(BATCH), mapping={"groups": 8, "queued": 8})
        for job in self.jobs:
            fields: Any = job.fields(b"")
            await self.redis.xadd(self.keys.jobs(0), fields)
            self.leases.append(await self.take(f"w{job.job}"))

    async def take(self, worker: str) -> Lease:
        found: Any = await self.redis.xreadgroup(GROUP, worker, {self.keys.jobs(0): ">"}, count=1)
        ((_, ((entry_id, _),)),) = found
        return self.lease(entry_id.decode(), worker, 1)

    def lease(self, entry_id: str, worker: str, delivery: int) -> Lease:
        return Lease(
            jobs_key=self.keys.jobs(0), dead_key=self.keys.dead(0), entry_id=entry_id, consumer=worker,
            delivery=delivery, ends_at=math.inf,
        )  # fmt: skip

    async def take_over(self, job: int) -> None:
        lease = self.leases[job]
        await self.redis.xclaim(self.keys.jobs(0), GROUP, "other", 0, [lease.entry_id])
        self.leases[job] = self.lease(lease.entry_id, "other", lease.delivery + 1)

    async def finish(self, job: int, group: int = 3) -> None:
        """What `keep_parts.lua` writes of finished samples."""
        done: Any = {tokens_field(group, sample): FINISHED for sample in SHARES[job].numbers}
        await self.redis.hset(self.keys.parts(BATCH), mapping=done)
        await self.redis.expire(self.keys.parts(BATCH), 100)

    async def share(self, job: int, group: int = 3) -> str:
        call = scripts.share_call(self.leases[job], self.keys, self.jobs[job], SHARES[job], group)

        async def send(call: Any) -> object:
            return await call.to(self.redis)

        return await scripts.share(send, call)

    async def hand_in(self, job: int, group: int = 3) -> str:
        await self.finish(job, group)
        return await self.share(job, group)

    async def publish(self, job: int, group: int = 3, kind: str = "group") -> str:
        call = scripts.publish_call(
            self.leases[job], self.keys, self.jobs[job], group=group, kind=kind, payload=b"", sealed=b"", keep_s=100
        )

        async def send(call: Any) -> object:
            return await call.to(self.redis)

        return await scripts.publish(send, call)

    async def pending(self) -> set[int]:
        rows: Any = await self.redis.xpending_range(self.keys.jobs(0), GROUP, "-", "+", 10)
        entries = {str(row["message_id"], "ascii") for row in rows}
        return {job for job, lease in enumerate(self.leases) if lease.entry_id in entries}

    async def missing(self, job: int) -> list[int]:
        return (await self.publisher.job_state(self.jobs[job])).unanswered

    async def answers(self) -> int:
        return int(await self.redis.xlen(self.keys.results(BATCH)))


@pytest.fixture
async def sharing(redis: Redis, policy: str) -> Sharing:
    made = Sharing(redis, Keys(policy))
    await made.queue()
    return made


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
async def test_the_last_job_of_a_group_is_told_to_put_it_together(sharing: Sharing, order: tuple[int, ...]) -> None:
    for group in (3, 4):
        told = [await sharing.hand_in(job, group) for job in order]
        assert told == ["kept", "kept", "complete"]
        assert await sharing.publish(order[2], group) == "published"

    assert (await sharing.pending(), await sharing.answers()) == (set(), 2)


async def test_a_job_is_over_once_all_its_groups_are_handed_in(sharing: Sharing) -> None:
    assert await sharing.hand_in(0, 3) == "kept"
    assert (await sharing.pending(), await sharing.missing(0)) == ({0, 1, 2}, [4])
    assert await sharing.redis.ttl(sharing.keys.parts(BATCH)) > SHARES_TTL_S - 100
    assert await sharing.hand_in(0, 4) == "kept"

    assert (await sharing.pending(), await sharing.missing(0), await sharing.missing(1)) == ({1, 2}, [], [3, 4])


async def test_what_is_sent_again_is_told_the_same_and_counts_once(sharing: Sharing) -> None:
    for group in (3, 4):
        assert [await sharing.hand_in(0, group) for _ in range(3)] == ["kept"] * 3
        assert [await sharing.hand_in(1, group) for _ in range(3)] == ["kept"] * 3
        assert [await sharing.hand_in(2, group) for _ in range(3)] == ["complete"] * 3
        assert [await sharing.publish(2, group) for _ in range(3)] == ["published"] * 3

    assert (await sharing.pending(), await sharing.answers()) == (set(), 2)
    totals = await sharing.redis.hgetall(f"{sharing.keys.jobs(0)[: -len('jobs')]}totals")
    assert {name: int(count) for name, count in totals.items()} == {
        b"jobs_acknowledged": 3, b"groups_answered": 2, b"tokens_answered": 2 * SAMPLES * 4,
    }  # fmt: skip


async def test_a_worker_that_died_before_it_published_leaves_that_to_the_next(sharing: Sharing) -> None:
    await sharing.hand_in(0)
    await sharing.hand_in(1)
    assert await sharing.hand_in(2) == "complete"
    await sharing.take_over(2)

    assert await sharing.missing(2) == [3, 4]
    assert await sharing.share(2) == "complete"
    assert await sharing.publish(2) == "published"


async def test_a_worker_that_died_between_its_samples_and_the_note_leaves_both_to_the_next(sharing: Sharing) -> None:
    await sharing.finish(0)
    await sharing.take_over(0)

    assert (await sharing.missing(0), await sharing.share(0)) == ([3, 4], "kept")
    assert await sharing.hand_in(1) == "kept"
    assert await sharing.hand_in(2) == "complete"


async def test_a_job_that_lost_its_lease_notes_nothing(sharing: Sharing) -> None:
    stale = sharing.leases[0]
    await sharing.take_over(0)
    sharing.leases[0], current = stale, sharing.leases[0]

    assert await sharing.hand_in(0) == "fenced"
    assert await sharing.redis.hget(sharing.keys.ledger(BATCH), "samples:3") is None
    sharing.leases[0] = current
    assert await sharing.share(0) == "kept"


async def test_samples_that_are_not_there_are_not_handed_in(sharing: Sharing) -> None:
    assert await sharing.share(0) == "missing"
    await sharing.finish(0)
    await sharing.redis.hset(sharing.keys.parts(BATCH), "3:1:tokens", "7")

    assert await sharing.share(0) == "missing"
    assert await sharing.pending() == {0, 1, 2}


async def test_an_error_of_one_job_ends_the_group_for_all(sharing: Sharing) -> None:
    assert await sharing.hand_in(0) == "kept"
    assert await sharing.publish(1, kind="error") == "published"

    assert [await sharing.hand_in(2) for _ in range(2)] == ["answered"] * 2
    for job in (0, 1, 2):
        assert await sharing.missing(job) == [4]
        await sharing.hand_in(job, 4)
    assert await sharing.pending() == {2}
    assert await sharing.publish(2, 4) == "published"
    assert (await sharing.pending(), await sharing.answers()) == (set(), 2)


async def test_a_job_whose_groups_others_ended_is_settled(sharing: Sharing) -> None:
    await sharing.hand_in(0, 3)
    await sharing.publish(1, 4, kind="error")

    ledger, lease = sharing.keys.ledger(BATCH), sharing.leases[0]
    assert await scripts.settle(sharing.redis, lease, ledger=ledger, job=sharing.jobs[0]) == "acknowledged"
    assert await sharing.pending() == {1, 2}


async def test_a_group_that_was_to_be_put_together_by_a_job_is_not_settled(sharing: Sharing) -> None:
    for job in (0, 1, 2):
        await sharing.hand_in(job, 3)
    await sharing.publish(1, 4, kind="error")

    ledger = sharing.keys.ledger(BATCH)
    for job, settled in enumerate(["acknowledged", "fenced", "unanswered"]):
        assert await scripts.settle(sharing.redis, sharing.leases[job], ledger=ledger, job=sharing.jobs[job]) == settled


async def test_a_job_knows_that_another_one_of_its_groups_was_begun(sharing: Sharing) -> None:
    await sharing.redis.hset(sharing.keys.ledger(BATCH), "digest", "d")
    states = [await sharing.publisher.job_state(job) for job in sharing.jobs]
    await sharing.publisher.note_begun(sharing.jobs[0], states[0])
    then = await sharing.publisher.job_state(sharing.jobs[2])

    assert [state.has_begun for state in states] == [False] * 3
    assert (then.has_begun, then.unanswered) == (True, [3, 4])


async def test_what_has_no_ledger_gets_none_by_being_begun(sharing: Sharing) -> None:
    await sharing.redis.delete(sharing.keys.ledger(BATCH))

    await sharing.publisher.note_begun(sharing.jobs[0], await sharing.publisher.job_state(sharing.jobs[0]))

    assert not await sharing.redis.exists(sharing.keys.ledger(BATCH))


async def test_nothing_is_handed_in_for_a_cancelled_batch(sharing: Sharing) -> None:
    await sharing.redis.hset(sharing.keys.ledger(BATCH), "cancelled", "1")

    assert await sharing.hand_in(0) == "cancelled"
    assert await sharing.pending() == {0, 1, 2}


async def test_jobs_that_have_the_same_samples_do_not_make_a_group_wait_for_ever(sharing: Sharing) -> None:
    """The job that seems to have the last samples looks for all of them, and finds the gap."""
    sharing.jobs[1] = sharing.jobs[0].__class__(
        batch_id=BATCH, job=1, first_group=3, job_groups=2, num_groups=8, share=Share(first=0, samples=3, of=SAMPLES)
    )
    await sharing.finish(0)
    await sharing.redis.hset(sharing.keys.parts(BATCH), "3:2:tokens", FINISHED)
    assert await sharing.share(0) == "kept"
    call = scripts.share_call(sharing.leases[1], sharing.keys, sharing.jobs[1], Share(first=0, samples=3, of=5), 3)
    reply: Any = await call.to(sharing.redis)

    assert reply == b"complete"


@pytest.mark.parametrize("field", ["samples:3", "answered:0"])
async def test_counts_that_are_no_numbers_stop_before_anything_is_written(sharing: Sharing, field: str) -> None:
    await sharing.redis.hset(sharing.keys.ledger(BATCH), field, "x")
    await sharing.finish(0)
    before = await sharing.redis.hgetall(sharing.keys.ledger(BATCH))

    with pytest.raises(Exception, match="not an integer"):
        await sharing.share(0)
    assert await sharing.redis.hgetall(sharing.keys.ledger(BATCH)) == before | (
        {b"samples:3": b"0"} if field == "answered:0" else {}
    )
