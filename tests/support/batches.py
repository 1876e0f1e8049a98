"""A batch of four prompts, the jobs that it became, and a worker by hand that answers it."""

from __future__ import annotations

from typing import Any

from rollstream import BatchHandle, GenerationConfig, GroupResult
from rollstream.schemas import Envelope, Job, Keys, decode
from tests.support.answers import Answering, result_of

CONFIG = GenerationConfig(max_new_tokens=4)
PROMPTS = [[1, 2], [3], [4, 5, 6], [7]]


def entries(server: Any, policy: str, partitions: int = 1) -> list[tuple[Envelope, Job]]:
    keys = Keys(policy, partitions=partitions)
    found = [server.xrange(keys.jobs(partition)) for partition in range(partitions)]
    return [(Envelope.of(fields), decode(fields[b"payload"], Job)) for rows in found for _, fields in rows]


def answering(redis_url: str, policy: str, handle: BatchHandle) -> Answering:
    return Answering(redis_url, policy, handle.batch_id, handle.num_groups)


def result(handle: BatchHandle, group: int, **changes: Any) -> GroupResult:
    return result_of(group, PROMPTS[group], [[10 + group]], handle.batch_id, **changes)
