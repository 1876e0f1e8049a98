"""Jobs of one policy as no producer of ours writes them, and what Redis then holds."""

from __future__ import annotations

import itertools
from typing import Any

import msgpack
import numpy as np
from redis.asyncio import Redis

from rollstream import GenerationConfig
from rollstream.schemas import Envelope, Job, Keys, Tensor
from rollstream.schemas.keys import GROUP
from tests.support.worker_process import until

POLICY = "bad-jobs"
CONFIG = GenerationConfig(max_new_tokens=5, num_return_sequences=2, ignore_eos=True)
numbers = itertools.count()


def job(batch_id: str, **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "batch_id": batch_id,
        "job": 0,
        "first_group": 0,
        "num_groups": 2,
        "prompt_ids": Tensor.of(np.array([5, 6, 7], np.int32)),
        "prompt_lengths": Tensor.of(np.array([1, 2], np.int32)),
        "config": CONFIG,
        "submitted_at": 0.0,
    }
    return Job(**{**fields, **changes})


async def push(redis: Redis, batch_id: str, payload: bytes) -> None:
    """XADD a two-group job with any payload, as another producer might."""
    fields: Any = Envelope(batch_id=batch_id, job=0, first_group=0, job_groups=2, num_groups=2).fields(payload)
    await redis.xadd(Keys(POLICY).jobs(0), fields)


async def answers(redis: Redis, batch_id: str, expected: int) -> list[tuple[bytes, Any]]:
    """Kinds and unpacked payloads of a batch's results, once there are `expected`."""
    key = Keys(POLICY).results(batch_id)

    async def complete() -> bool:
        return int(await redis.xlen(key)) >= expected

    await until(complete)
    entries: Any = await redis.xrange(key)
    return [(fields[b"kind"], msgpack.unpackb(fields[b"payload"])) for _, fields in entries]


async def dead_letters(redis: Redis) -> list[dict[bytes, bytes]]:
    entries: Any = await redis.xrange(Keys(POLICY).dead(0))
    return [fields for _, fields in entries]


async def pending(redis: Redis) -> int:
    """Entries delivered and not acknowledged."""
    return int((await redis.xpending(Keys(POLICY).jobs(0), GROUP))["pending"])


HUGE = 20 * 2**20


async def none_pending(redis: Redis) -> bool:
    return await pending(redis) == 0
