"""Reads what earlier deliveries kept, in replies of bounded size. Nothing of it is believed before it is checked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from redis.asyncio import Redis

from rollstream.schemas import Job, Keys, Part, SchemaError, decode
from rollstream.schemas.field_values import count_of
from rollstream.schemas.hashes.part_fields import FINISHED

from ..redis_io.connections import retrying
from . import part_scripts
from .part_checks import problem_of
from .part_scripts import Found
from .part_weights import ContentOf, weights_problem

_GROUPS = 512
"""Groups of one command that asks which of them have parts."""
_REPLY_BYTES, _REPLY_PARTS = 8 * 2**20, 256
"""The most of one reply; a single part may be larger."""

Name = tuple[int, int]
"""Group and sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptParts:
    """What Redis has of some groups."""

    groups: list[int] = field(default_factory=list)
    """Groups of which there is anything."""
    parts: dict[int, dict[int, Part]] = field(default_factory=dict)
    """By group and sample."""
    problems: dict[Name, str] = field(default_factory=dict)
    """Why something is no part of this job."""


async def read_kept(
    redis: Redis, keys: Keys, job: Job, groups: Sequence[int], vocab_size: int, content_of: ContentOf
) -> KeptParts:
    """The parts of these groups of the job. Raises `RedisError` as `retrying` does, such as for a key that is no hash.

    A job of which nothing was kept costs a command for 512 groups.
    """
    key = keys.parts(job.batch_id)
    counts = await _sample_counts(redis, key, groups, job.config.num_return_sequences)
    kept = KeptParts(groups=list(counts))
    async for (group, sample), found in _found(redis, key, counts):
        part = _opened(found, job, group, sample, vocab_size, content_of)
        if isinstance(part, str):
            kept.problems[group, sample] = part
        elif part is not None:
            kept.parts.setdefault(group, {})[sample] = part
    return kept


async def _sample_counts(redis: Redis, key: str, groups: Sequence[int], most: int) -> dict[int, int]:
    """How many samples may have a part, of the groups that have any."""
    told: dict[int, int] = {}
    for some in _slices(groups, _GROUPS):
        values = await retrying("read parts", part_scripts.read_counts, redis, key, some)
        told |= {group: _at_most(value, most) for group, value in zip(some, values, strict=True) if value is not None}
    return told


def _at_most(value: bytes, most: int) -> int:
    count = count_of(value)
    return most if count is None else min(count, most)


async def _found(redis: Redis, key: str, counts: Mapping[int, int]) -> AsyncIterator[tuple[Name, Found]]:
    names = ((group, sample) for group, samples in counts.items() for sample in range(samples))
    asked = list(islice(names, _REPLY_PARTS))
    while asked:
        reply = await retrying("read parts", part_scripts.read_parts, redis, key, asked, most=_REPLY_BYTES)
        for pair in zip(asked, reply, strict=False):
            yield pair
        asked = [*asked[max(1, len(reply)) :], *islice(names, len(reply))]


def _opened(
    found: Found, job: Job, group: int, sample: int, vocab_size: int, content_of: ContentOf
) -> Part | str | None:
    """The part, why it is none, or None where there is nothing."""
    if found.payload is None:
        return None if found.reached is None else "its tokens are missing"
    if isinstance(found.payload, int):
        return f"it has {found.payload} bytes"
    try:
        part = decode(found.payload, Part)
    except SchemaError as error:
        return str(error)
    if found.reached != (FINISHED if part.is_finished else str(len(part))).encode():
        return "it is not as far as it says"
    if not part.is_finished and not 0 <= sample - job.first_sample < job.sampled:
        return None  # a job that has other samples of the group goes on from it
    problem = problem_of(part, job, group, sample, vocab_size)
    if problem is None and not (part.is_finished and job.samples is not None):  # a share is compared once all are there
        problem = weights_problem(part, content_of)
    return problem or part


def _slices(values: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    return (values[start : start + most] for start in range(0, len(values), most))
