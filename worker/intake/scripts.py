"""The scripts that bring jobs in and remove finished ones, as typed calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP, horizons
from rollstream.schemas.parked import VERSION_PREFIX, WORKER_PREFIX, ParkedFor, ParkedForWorker
from rollstream.transport.redis.scripts import load

from ..delivery.scripts import Delivery
from ..redis_io.streams import Entry, unless_missing

CLAIM = load(__package__, "claim.lua")
PARK = load(__package__, "park.lua", with_fence=True)
UNPARK = load(__package__, "unpark.lua")
TAKE_PARKED = load(__package__, "take_parked.lua")
WAITED_FOR = load(__package__, "waited_for.lua")
FREE_PARKED = load(__package__, "free_parked.lua")
RESTAMP = load(__package__, "restamp.lua")
TRIM = load(__package__, "trim.lua")
RETIRE = load(__package__, "retire.lua")
FORGET = load(__package__, "forget.lua")
MEND_PARTS = load(__package__, "mend_parts.lua", with_parts=True)

_CLAIM_STEPS = 100
"""Most steps of a call: a thousand entries, a few milliseconds of Redis' time."""
_RESTAMP_ENTRIES = 500
_TRIM_ENTRIES, _TRIM_STEPS = 128, 16
"""They bound a call to a few milliseconds of Redis' time. A step covers a node of a stream: 100 entries."""
_MOST_FREED = 500
"""Parked entries of one call: those behind them are looked at once these are taken."""
_MOST_ADDED_UP = 2000
"""Batches whose bytes of parts one call adds up: about a millisecond of Redis' time."""


async def claim(
    redis: Redis, jobs_key: str, *, consumer: str, idle_ms: int, cursor: bytes
) -> tuple[bytes, int, Entry | None]:
    """See `claim.lua`: the next cursor; how many pending entries were acknowledged because the stream lost them; and an
    entry whose lease ran out, now ours, if one was found. Raises `GroupMissingError`, `RedisError`.
    """
    sent_at = time.monotonic()
    call = CLAIM([jobs_key], [GROUP, consumer, idle_ms, cursor, _CLAIM_STEPS])
    cursor, removed, *found = await unless_missing(call.to(redis))
    return cursor, removed, _entry(jobs_key, found, sent_at)


async def unpark(redis: Redis, jobs_key: str, *, consumer: str, version: int) -> tuple[int, Entry | None]:
    """See `unpark.lua`: how many parked entries the stream lost, as in `claim`; and an entry that was parked for
    `version` or an older one, now ours, if there is one. Raises `GroupMissingError`, `RedisError`.
    """
    sent_at = time.monotonic()
    call = UNPARK([jobs_key], [GROUP, consumer, VERSION_PREFIX, version])
    removed, *found = await unless_missing(call.to(redis))
    return removed, _entry(jobs_key, found, sent_at)


async def take_parked(redis: Redis, jobs_key: str, *, consumer: str) -> tuple[int, Entry | None]:
    """See `take_parked.lua`: how many parked entries the stream lost, as in `claim`; and an entry that waits for this
    worker, now its own, if there is one. Raises `GroupMissingError`, `RedisError`.
    """
    sent_at = time.monotonic()
    call = TAKE_PARKED([jobs_key], [GROUP, consumer, ParkedForWorker(consumer).consumer])
    removed, *found = await unless_missing(call.to(redis))
    return removed, _entry(jobs_key, found, sent_at)


async def waited_for(redis: Redis, jobs_key: str) -> list[ParkedForWorker]:
    """See `waited_for.lua`: the workers for which jobs of sessions wait. Raises `GroupMissingError`, `RedisError`."""
    names: list[bytes] = await unless_missing(WAITED_FOR([jobs_key], [GROUP, WORKER_PREFIX]).to(redis))
    found = (ParkedForWorker.of(name.decode("utf-8", "replace")) for name in names)
    return [one for one in found if one is not None]


async def free_parked(redis: Redis, jobs_key: str, *, under: ParkedForWorker, idle_ms: int) -> int:
    """See `free_parked.lua`: how many waits were ended. Raises `GroupMissingError`, `RedisError`."""
    call = FREE_PARKED([jobs_key], [GROUP, under.consumer, idle_ms, _MOST_FREED])
    freed: int = await unless_missing(call.to(redis))
    return freed


async def park(
    redis: Redis, lease: Delivery, *, under: ParkedFor | ParkedForWorker, waited_ms: int = 0
) -> Literal["parked", "fenced"]:
    """See `park.lua`: leave the job to those that it waits for. Raises `RedisError`."""
    args = GROUP, lease.consumer, lease.entry_id, lease.delivery, under.consumer, waited_ms
    reply: bytes = await PARK([lease.jobs_key], args).to(redis)
    return "parked" if reply == b"parked" else "fenced"


async def restamp(redis: Redis, jobs_key: str, *, start: str, idle_ms: int) -> bytes | None:
    """See `restamp.lua`: the last entry looked at from `start` on; None if there were no more.

    `idle_ms`: how long an entry is idle once its lease has ended.

    Raises `GroupMissingError`, `RedisError`.
    """
    reply = await unless_missing(
        RESTAMP([jobs_key], [GROUP, start, _RESTAMP_ENTRIES, WORKER_PREFIX, idle_ms]).to(redis)
    )
    last: bytes | None = reply[0] if reply else None
    return last


async def trim(redis: Redis, jobs_key: str, *, retention_ms: int, nbytes: int) -> int:
    """See `trim.lua`: how many finished entries went in this step; 0: it was the last. Raises `RedisError`."""
    args = GROUP, retention_ms, nbytes, _TRIM_ENTRIES, _TRIM_STEPS
    trimmed: int = await TRIM([jobs_key, horizons(jobs_key)], args).to(redis)
    return trimmed


async def retire(redis: Redis, jobs_key: str, *, consumer: str) -> bool:
    """See `retire.lua`: whether a consumer that holds nothing was removed. Raises `RedisError`."""
    return bool(await RETIRE([jobs_key], [GROUP, consumer]).to(redis))


async def forget(redis: Redis, keys: Keys, partition: int, *, batch_ids: Sequence[str]) -> int:
    """See `forget.lua`: how many of these batches of one partition had no ledger any more. Raises `RedisError`."""
    names = [keys.batches(partition), *(keys.ledger(batch_id) for batch_id in batch_ids)]
    forgotten: int = await FORGET(names, batch_ids).to(redis)
    return forgotten


async def mend_parts(redis: Redis, keys: Keys, partition: int, *, batch_ids: Sequence[str]) -> int:
    """See `mend_parts.lua`: how many of these batches of one partition had no parts any more. Raises `RedisError`."""
    names = [keys.part_bytes(partition), *(keys.parts(batch_id) for batch_id in batch_ids)]
    gone: int = await MEND_PARTS(names, [_MOST_ADDED_UP, *batch_ids]).to(redis)
    return gone


def _entry(jobs_key: str, found: Sequence[Any], sent_at: float) -> Entry | None:
    """The entry that a script returned as id, delivery count and flat fields; None if it returned nothing."""
    if not found:
        return None
    entry_id, delivery, flat = found
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Entry(jobs_key=jobs_key, entry_id=entry_id.decode(), fields=fields, delivery=delivery, taken_at=sent_at)
