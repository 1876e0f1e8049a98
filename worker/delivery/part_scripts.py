"""The scripts that keep and read parts, as typed calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, get_args

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.hashes.part_fields import FINISHED, part_field
from rollstream.schemas.keys import GROUP
from rollstream.schemas.wire.sizes.limits import MAX_BYTES
from rollstream.transport.redis.scripts import load

from .scripts import Delivery

Fate = Literal["kept", "answered", "over", "gone", "fenced"]

_FATES: dict[bytes, Fate] = {fate.encode(): fate for fate in get_args(Fate)}

KEEP_PARTS = load(__package__, "keep_parts.lua", with_fence=True, with_parts=True)
READ_PARTS = load(__package__, "read_parts.lua")
READ_COUNTS = load(__package__, "read_counts.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A part as it goes to Redis. An empty payload deletes the part that is there."""

    group: int
    sample: int
    tokens: int | None
    """None: the sample is finished."""
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What Redis has under a sample's name."""

    payload: bytes | int | None
    """Its size, if it is larger than a message may be."""
    reached: bytes | None
    """How far the sample is, as the script wrote it beside the part."""


async def keep_parts(
    redis: Redis, lease: Delivery, keys: Keys, batch_id: str, parts: Sequence[Written], *, keep_s: int, most: int
) -> list[Fate]:
    """See `keep_parts.lua`: what became of each part. `most`: bytes of all parts of the partition; 0: any number.

    Raises `RedisError`.
    """
    names = lease.jobs_key, keys.ledger(batch_id), keys.parts(batch_id), keys.part_bytes(keys.partition(batch_id))
    token = lease.consumer, lease.entry_id, lease.delivery
    words = chain.from_iterable(
        (one.group, one.sample, FINISHED if one.tokens is None else one.tokens, one.payload) for one in parts
    )
    reply: Any = await KEEP_PARTS(names, [GROUP, *token, batch_id, keep_s, most, *words]).to(redis)
    told: Sequence[bytes] = [reply] * len(parts) if isinstance(reply, bytes) else reply
    return [_FATES[fate] for fate in told]


async def read_counts(redis: Redis, key: str, groups: Sequence[int]) -> list[bytes | None]:
    """See `read_counts.lua`: of how many samples each group may have parts, as it stands there. Raises `RedisError`."""
    reply: Any = await READ_COUNTS([key], groups).to(redis)
    return list(reply)


async def read_parts(redis: Redis, key: str, names: Sequence[tuple[int, int]], *, most: int) -> list[Found]:
    """See `read_parts.lua`: what there is of the first of these (group, sample), in a reply of about `most` bytes.

    Raises `RedisError`.
    """
    fields = [part_field(group, sample) for group, sample in names]
    reply: Any = await READ_PARTS([key], [most, MAX_BYTES, *fields]).to(redis)
    return [Found(payload=payload, reached=reached) for payload, reached in zip(reply[::2], reply[1::2], strict=True)]
