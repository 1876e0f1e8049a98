"""A split group is put together from what its jobs handed in, or refused by name; never is a wrong sample in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream.schemas import Envelope, GenerationConfig, GroupResult, Job, Keys, Part, Tensor, encode
from rollstream.schemas.hashes.part_fields import FINISHED, part_field, tokens_field
from rollstream.schemas.wire.fields import VersionSpan
from rollstream.schemas.wire.images import ImageSpan
from rollstream.worker.delivery import scripts
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.delivery.shares import Shares
from rollstream.worker.delivery.turns import Claim
from rollstream.worker.errors import DataError, LeaseLostError, UnprovenError, UnpublishableError
from rollstream.worker.jobs.admitted_job import AdmittedJob
from rollstream.worker.jobs.make_answers import GroupShare, Sampled
from rollstream.worker.jobs.prompts.image_prompts import Prompt
from rollstream.worker.jobs.shared_groups import SharedGroups
from rollstream.worker.measure.measures import Measures
from rollstream.worker.requests import Completion, Expanded
from tests.support.partials.parts import (
    content_of_version,
    deliver,
    finished,
    job_of,
    part_of,
    parts_at,
    take_over,
    tokens_by_name,
)

CONFIG = GenerationConfig(max_new_tokens=8, num_return_sequences=4, seed=7)
WHOLE = job_of(config=CONFIG)


def share_of(first: int, samples: int, number: int, **changes: Any) -> Job:
    update = {"job": number, "first_sample": first, "samples": samples, "requires": ("split",), **changes}
    return WHOLE.model_copy(update=update)


FIRST, SECOND = share_of(0, 2, 0), share_of(2, 2, 1)


def proven(spans: Iterable[Sequence[VersionSpan]]) -> None:
    for of_one in spans:
        for version, _ in of_one:
            if version == 13:
                raise UnprovenError(version)


class Sharing:
    """The worker's side of split groups, on a real Redis."""

    def __init__(self, redis: Redis, policy: str) -> None:
        self.redis = redis
        self.keys = Keys(policy)
        self.measures = Measures()
        self.content_of: Callable[[int], str | None] = content_of_version
        parts = parts_at(redis, self.keys, check_proven=proven, content_of=self._content_of)
        self.groups = SharedGroups(
            shares=Shares(redis=redis, keys=self.keys, parts=parts, check_proven=proven, measures=self.measures)
        )

    def _content_of(self, version: int) -> str | None:
        return self.content_of(version)

    async def deliver(self, job: Job) -> AdmittedJob:
        return self.admitted(job, await deliver(self.redis, self.keys, job))

    def admitted(self, job: Job, lease: Lease) -> AdmittedJob:
        return AdmittedJob(lease=lease, envelope=Envelope.of_job(job), job=job, claim=Claim(payload=0))

    async def hand_in(
        self,
        admitted: AdmittedJob,
        version: int = 0,
        group: int = 0,
        expanded: Sequence[int] = (),
        processor: str = "a",
    ) -> GroupResult | None:
        """`expanded`: what the prompt becomes with its images; empty: it has none. `processor`: a hex digit."""
        job = admitted.job
        assert isinstance(job, Job)
        completions = [completion(job.first_sample + number, version) for number in range(job.sampled)]
        sampled = Sampled(completions=completions)
        prompt = Prompt(ids=job.prompts[group - job.first_group])
        if expanded:
            span = ImageSpan(offset=1, length=2, was=(9,), processor=processor * 64)
            images = Expanded(ids=list(expanded), spans=(span,), fed=())
            prompt = Prompt(ids=np.array(expanded, np.int32), images=images)
        share = GroupShare(job=job, group=group, prompt=prompt, sampled=sampled, started=1.0)
        return await self.groups.joined(admitted, share)

    async def put(self, part: Part, sample: int | None = None) -> None:
        """Write a finished part as anybody may who can write to Redis."""
        where = part.group, part.sample if sample is None else sample
        mapping: Any = {part_field(*where): encode(part), tokens_field(*where): FINISHED, "0": 4}
        await self.redis.hset(self.keys.parts("b"), mapping=mapping)
        await self.redis.expire(self.keys.parts("b"), 100)


def completion(sample: int, version: int = 0) -> Completion:
    """Tokens that say whose they are."""
    length = 8 - sample
    return Completion(
        token_ids=np.full(length, 100 + sample, np.int32), logprobs=np.full(length, -1, np.float32),
        finish_reason="stop" if sample else "length", stop_reason=100 + sample if sample else None,
        version_spans=((version, length),),
    )  # fmt: skip


@pytest.fixture
def sharing(redis: Redis, policy: str) -> Sharing:
    return Sharing(redis, policy)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_the_samples_come_back_in_their_order_whichever_job_was_last(
    sharing: Sharing, order: tuple[int, int]
) -> None:
    admitted = [await sharing.deliver(job) for job in (FIRST, SECOND)]

    assert await sharing.hand_in(admitted[order[0]], version=order[0]) is None
    group = await sharing.hand_in(admitted[order[1]], version=order[1])

    assert group is not None
    assert group.token_ids.numpy().tolist() == [[100 + sample] * (8 - sample) + [0] * sample for sample in range(4)]
    assert group.finish_reasons == ("length", "stop", "stop", "stop")
    assert group.version_spans == (((0, 8),), ((0, 7),), ((1, 6),), ((1, 5),))
    assert (group.sample_index, group.resumed_at) == (None, None)
    measures = sharing.measures
    assert (measures.sequences, measures.tokens, measures.groups["result"]) == (4, 8 + 7 + 6 + 5, 0)


async def test_a_delivery_after_a_crash_finds_what_is_there(sharing: Sharing) -> None:
    first, second = await sharing.deliver(FIRST), await sharing.deliver(SECOND)
    await sharing.hand_in(first)
    assert await sharing.hand_in(second) is not None

    again = sharing.admitted(SECOND, await take_over(sharing.redis, second.lease, "w2"))
    group = await sharing.hand_in(again)

    assert group is not None
    assert (group.worker, group.delivery, len(group)) == ("w2", 2, 4)
    with pytest.raises(LeaseLostError):
        await sharing.hand_in(second)


async def test_samples_that_redis_lost_before_they_were_noted_are_handed_in_again(
    sharing: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await sharing.deliver(FIRST), await sharing.deliver(SECOND)
    assert await sharing.hand_in(first) is None
    note, handed_in = scripts.share, [part_field(0, 2), tokens_field(0, 2)]

    async def set_back(send: Any, call: Any) -> Any:
        while handed_in:
            await sharing.redis.hdel(sharing.keys.parts("b"), handed_in.pop())
        return await note(send, call)

    monkeypatch.setattr(scripts, "share", set_back)
    group = await sharing.hand_in(second)

    assert group is not None
    assert group.lengths.tolist() == [8, 7, 6, 5]


@pytest.mark.parametrize(("of_first", "is_answered"), [(False, True), (True, False)], ids=["its own", "of both jobs"])
async def test_a_complete_group_that_redis_lost_meanwhile_is_handed_in_again(
    sharing: Sharing, monkeypatch: pytest.MonkeyPatch, of_first: bool, is_answered: bool
) -> None:
    first, second = await sharing.deliver(FIRST), await sharing.deliver(SECOND)
    assert await sharing.hand_in(first) is None
    shares, ledger = sharing.groups._shares, sharing.keys.ledger("b")
    read, set_backs = shares.of_group, [True]

    async def set_back(*args: Any) -> Any:
        if set_backs:  # the last writes are gone: samples, and the notes that they are there
            set_backs.pop()
            samples = range(0 if of_first else 2, 4)
            fields = [field for n in samples for field in (part_field(0, n), tokens_field(0, n))]
            await sharing.redis.hdel(sharing.keys.parts("b"), *fields)
            await sharing.redis.hdel(ledger, "share:1:0", *(["share:0:0"] if of_first else []))
            await sharing.redis.hincrby(ledger, "samples:0", -4 if of_first else -2)
        return await read(*args)

    monkeypatch.setattr(shares, "of_group", set_back)
    group = await sharing.hand_in(second)

    assert (group is not None) == is_answered
    assert sharing.measures.sequences == 4
    assert await sharing.redis.hget(ledger, "samples:0") == (b"4" if is_answered else b"2")


async def test_samples_of_unproven_weights_do_not_leave_the_worker(sharing: Sharing) -> None:
    first = await sharing.deliver(FIRST)

    with pytest.raises(UnprovenError):
        await sharing.hand_in(first, version=13)
    assert await sharing.redis.exists(sharing.keys.parts("b")) == 0


HOSTILE = {
    "of another prompt": finished(SECOND, 1, 2).model_copy(update={"group": 0}),
    "of another seed": finished(share_of(2, 2, 1, seed_offset=3), 0, 2),
    "of another config": finished(share_of(2, 2, 1, config=CONFIG.model_copy(update={"temperature": 0.5})), 0, 2),
    "of another batch": finished(SECOND, 0, 2).model_copy(update={"batch_id": "c"}),
    "of another sample": finished(SECOND, 0, 3),
    "not finished": part_of(SECOND, 0, 2, 3),
    "too long": part_of(SECOND, 0, 2, 9, finish_reason="length"),
    "outside the vocabulary": part_of(
        SECOND, 0, 2, 8, finish_reason="length", token_ids=Tensor.of(np.full(8, 10**6, np.int32))
    ),
    "of another flavour": part_of(SECOND, 0, 2, 8, finish_reason="length", logprobs_flavour="raw"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_part_that_is_none_of_the_group_is_refused_by_name(sharing: Sharing, name: str) -> None:
    first, second = await sharing.deliver(FIRST), await sharing.deliver(SECOND)
    assert await sharing.hand_in(second) is None
    await sharing.put(HOSTILE[name], sample=2)

    with pytest.raises(DataError, match=r"samples 2 of 4 are not in Redis") as refused:
        await sharing.hand_in(first)
    assert (refused.value.code, refused.value.field) == ("samples_missing", "samples_per_job")


@pytest.mark.parametrize(
    ("second_has", "made"),
    [({"expanded": [0, 9, 9, 9]}, "expanded the prompt"), ({"processor": "b"}, "made pixels of the images")],
    ids=["other ids", "other pixels"],
)
async def test_samples_of_images_that_were_processed_otherwise_are_never_put_together(
    sharing: Sharing, second_has: dict[str, Any], made: str
) -> None:
    first, second = await sharing.deliver(FIRST), await sharing.deliver(SECOND)
    assert await sharing.hand_in(first, expanded=[0, 9, 9]) is None

    with pytest.raises(DataError, match=rf"images: samples 0, 1 are of a worker that {made} otherwise") as refused:
        await sharing.hand_in(second, **{"expanded": [0, 9, 9], **second_has})
    assert (refused.value.code, refused.value.field) == ("image_refused", "images")


async def test_samples_of_other_weights_under_the_same_number_are_never_put_together(sharing: Sharing) -> None:
    first, second = await sharing.deliver(FIRST), await sharing.deliver(SECOND)
    assert await sharing.hand_in(first, version=3) is None
    sharing.content_of = lambda _: "0d" * 32

    with pytest.raises(
        DataError, match=r"in samples 0, 1 version 3, or the adapter, has other weights .* submit"
    ) as refused:
        await sharing.hand_in(second, version=3)
    assert (refused.value.code, refused.value.field) == ("samples_missing", "samples_per_job")


async def test_running_samples_of_a_split_group_are_gone_on_from_by_their_own_job_under_their_own_weights_alone(
    sharing: Sharing,
) -> None:
    first, second = await sharing.deliver(FIRST), await sharing.deliver(SECOND)
    parts = sharing.groups._shares._parts
    await parts.keep(first.lease, first.envelope, [part_of(FIRST, 0, 1, 3)])
    await parts.keep(second.lease, second.envelope, [part_of(SECOND, 0, number, 3) for number in (2, 3)])
    taken = await take_over(sharing.redis, second.lease, "w2")

    assert tokens_by_name(await parts.kept(taken, SECOND, [0])) == {(0, 2): 3, (0, 3): 3}
    sharing.content_of = lambda _: "0d" * 32
    assert await parts.kept(taken, SECOND, [0]) == {}
    sharing.content_of = content_of_version
    taken = await take_over(sharing.redis, first.lease, "w2")
    assert tokens_by_name(await parts.kept(taken, FIRST, [0])) == {(0, 1): 3}, "the other job's were dropped alone"


@pytest.mark.parametrize("shares", [[(0, 2), (1, 2)], [(0, 3), (0, 1)], [(0, 2), (0, 2)]], ids=str)
async def test_shares_that_overlap_and_leave_gaps_are_refused_by_name(
    sharing: Sharing, shares: list[tuple[int, int]]
) -> None:
    jobs = [await sharing.deliver(share_of(*share, number)) for number, share in enumerate(shares)]
    assert await sharing.hand_in(jobs[0]) is None

    with pytest.raises(DataError, match=r"samples 3 of 4|samples 2, 3 of 4"):
        await sharing.hand_in(jobs[1])


async def test_parts_that_are_gone_are_told(sharing: Sharing) -> None:
    first, second = await sharing.deliver(FIRST), await sharing.deliver(SECOND)
    await sharing.hand_in(first)
    await sharing.redis.delete(sharing.keys.parts("b"))

    with pytest.raises(DataError, match=r"samples 0, 1 of 4 are not in Redis although they were handed in"):
        await sharing.hand_in(second)


async def test_a_cancelled_batch_takes_no_more_samples(sharing: Sharing) -> None:
    first = await sharing.deliver(FIRST)
    await sharing.redis.hset(sharing.keys.ledger("b"), "cancelled", "1")

    with pytest.raises(DataError, match="the batch was cancelled") as refused:
        await sharing.hand_in(first)
    assert refused.value.code == "cancelled"


@pytest.mark.keys_by_hand
@pytest.mark.parametrize("key", ["parts", "ledger"])
async def test_keys_of_another_type_end_the_job_and_not_the_worker(sharing: Sharing, key: str) -> None:
    first = await sharing.deliver(FIRST)
    name = sharing.keys.parts("b") if key == "parts" else sharing.keys.ledger("b")
    await sharing.redis.delete(name)
    await sharing.redis.set(name, "x")

    with pytest.raises((UnpublishableError, DataError)):
        await sharing.hand_in(first)


async def test_a_sample_that_no_part_carries_is_an_error_of_its_group(sharing: Sharing) -> None:
    first = await sharing.deliver(FIRST)
    bad = Completion(
        token_ids=np.full(2, 5, np.int32), logprobs=np.array([-1, np.nan], np.float32), finish_reason="length",
        stop_reason=None, version_spans=((0, 2),),
    )  # fmt: skip
    sampled, prompt = Sampled(completions=[bad, bad]), Prompt(ids=FIRST.prompts[0])
    share = GroupShare(job=FIRST, group=0, prompt=prompt, sampled=sampled, started=1.0)

    with pytest.raises(DataError, match="a sample cannot be handed in to its group"):
        await sharing.groups.joined(first, share)
