"""A queue in which one job is delivered, and parts of it, for the tests of what keeps them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from redis.asyncio import Redis

from rollstream.schemas import Envelope, GenerationConfig, GroupError, Job, Keys, Part, Tensor, decode, encode
from rollstream.schemas.hashes.part_fields import ALL_PARTS
from rollstream.schemas.keys import GROUP
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.parts import content_of
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.answer_publisher import AnswerPublisher
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.delivery.make_parts import contents_of
from rollstream.worker.delivery.parts import Parts
from rollstream.worker.measure.measures import Measures
from rollstream.worker.versions.proofs import Proofs
from rollstream.worker.weights.contents import digest_of

VOCAB = 1000
CONFIG = GenerationConfig(max_new_tokens=8, num_return_sequences=3, seed=7)


_STUB = contents_of(WorkerSettings(policy="p", engine="stub"))


def content_of_version(version: int) -> str:
    """The digest of a version's weights; of version 0 that of workers with the stub engine."""
    return _STUB.of(version) or digest_of(str(version))


def job_of(batch_id: str = "b", *, groups: int = 2, config: GenerationConfig = CONFIG) -> Job:
    """A job that is its whole batch, with prompts of two tokens."""
    return Job(
        batch_id=batch_id,
        job=0,
        first_group=0,
        num_groups=groups,
        prompt_ids=Tensor.of(np.arange(2 * groups, dtype=np.int32)),
        prompt_lengths=Tensor.of(np.full(groups, 2, np.int32)),
        config=config,
        submitted_at=1.0,
    )


def part_of(job: Job, group: int, sample: int, tokens: int, **others: Any) -> Part:
    """That many tokens of a sample; `others` are further fields."""
    fields: dict[str, Any] = {
        "batch_id": job.batch_id,
        "group": group,
        "sample": sample,
        "of": content_of(job, group),
        "token_ids": Tensor.of(np.arange(tokens, dtype=np.int32)),
        "logprobs": Tensor.of(np.full(tokens, -1, np.float32)),
        "logprobs_flavour": "processed",
        "version_spans": ((0, tokens),),
        "worker": "w1",
    }
    fields |= others
    versions = dict.fromkeys(version for version, _ in fields["version_spans"])
    fields.setdefault("weights", tuple((version, content_of_version(version)) for version in versions))
    return Part(**fields)


def finished(job: Job, group: int, sample: int) -> Part:
    """A sample that ended at its longest."""
    return part_of(job, group, sample, job.config.max_new_tokens, finish_reason="length")


def parts_at(redis: Redis, keys: Keys, **others: Any) -> Parts:
    """What a worker whose boot model is proven keeps parts with."""
    proofs = Proofs()
    proofs.allow(0)
    settings: dict[str, Any] = {"measures": Measures(), "most_bytes": 0, "most_policy_bytes": 0}
    settings |= {"check_proven": proofs.check, "vocab_size": lambda: VOCAB, "content_of": content_of_version}
    return Parts(redis=redis, keys=keys, **settings | others)


async def deliver(redis: Redis, keys: Keys, job: Job, consumer: str = "w1") -> Lease:
    """Queue the job with its ledger, and have it delivered for the first time."""
    envelope, partition = Envelope.of_job(job), keys.partition(job.batch_id)
    jobs_key = keys.jobs(partition)
    if not await redis.exists(jobs_key):
        await redis.xgroup_create(jobs_key, GROUP, id="0", mkstream=True)
    fields: Any = envelope.fields(encode(job))
    entry_id: Any = await redis.xadd(jobs_key, fields)
    await redis.hset(keys.ledger(job.batch_id), mapping={"groups": job.num_groups, "queued": job.num_groups})
    await redis.expire(keys.ledger(job.batch_id), 600)
    await redis.xreadgroup(GROUP, consumer, {jobs_key: ">"}, count=1)
    return _first(keys, partition, entry_id, consumer)


async def take(redis: Redis, keys: Keys, consumer: str = "w1") -> tuple[Lease, Job]:
    """Have the job that a producer queued last delivered for the first time."""
    jobs_key = keys.jobs(0)
    await redis.xgroup_create(jobs_key, GROUP, id="0", mkstream=True)
    reply: Any = await redis.xreadgroup(GROUP, consumer, {jobs_key: ">"}, count=1)
    entry_id, fields = reply[0][1][0]
    return _first(keys, 0, entry_id, consumer), decode(fields[PAYLOAD], Job)


def _first(keys: Keys, partition: int, entry_id: bytes, consumer: str) -> Lease:
    return Lease(
        jobs_key=keys.jobs(partition),
        dead_key=keys.dead(partition),
        entry_id=entry_id.decode(),
        consumer=consumer,
        delivery=1,
        ends_at=math.inf,
        is_first=True,
    )


async def take_over(redis: Redis, lease: Lease, consumer: str) -> Lease:
    """The next delivery of the entry, to another worker."""
    await redis.xclaim(lease.jobs_key, GROUP, consumer, 0, [lease.entry_id])
    return replace(lease, consumer=consumer, delivery=lease.delivery + 1, is_first=False, _requests={})


async def counted(redis: Redis, keys: Keys, *batch_ids: str) -> list[int]:
    """Bytes that are counted for all parts of the first batch's partition, then for each batch."""
    key = keys.part_bytes(keys.partition(batch_ids[0]))
    return [int(value or 0) for value in await redis.hmget(key, [ALL_PARTS, *batch_ids])]


def nbytes(*parts: Part) -> int:
    """What these take in Redis."""
    return sum(len(encode(part)) for part in parts)


def tokens_by_name(kept: dict[int, dict[int, Part]]) -> dict[tuple[int, int], int]:
    """The number of tokens of each sample, by group and sample."""
    return {(group, sample): len(part) for group, samples in kept.items() for sample, part in samples.items()}


def names(parts: Sequence[Part]) -> list[tuple[int, int]]:
    """Group and sample of each."""
    return [(part.group, part.sample) for part in parts]


def publisher(redis: Redis, keys: Keys, parts: Parts | None) -> AnswerPublisher:
    """Publishes answers, and takes their parts along."""
    return AnswerPublisher(
        redis=redis, keys=keys, result_ttl_s=100, measures=Measures(), check_proven=lambda _: None, parts=parts
    )


def error(group: int) -> GroupError:
    """An answer to a group of the batch `b`."""
    return GroupError(batch_id="b", group=group, code="too_long", field="prompt", message="m", worker="w1")
