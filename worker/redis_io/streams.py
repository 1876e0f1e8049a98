"""The stream commands that a consumer needs, with typed replies, and the error of a missing consumer group."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas.entry_id import after
from rollstream.schemas.keys import GROUP

_PAGE = 1000

log = structlog.get_logger()


class GroupMissingError(Exception):
    """Raised when the stream or its consumer group is gone, as after Redis was restarted empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One delivered entry of a jobs stream."""

    jobs_key: str
    entry_id: str
    fields: Mapping[bytes, bytes]
    delivery: int
    """Redis' count of deliveries, without those that were given back or parked."""
    taken_at: float
    """Monotonic seconds, no later than the delivery; the lease counts from here."""
    is_first: bool = False
    """Whether it was surely never delivered before. The count does not tell: a delivery may be taken back."""

    @property
    def nbytes(self) -> int:
        """The size of the fields in memory."""
        return sum(len(name) + len(value) for name, value in self.fields.items())


Take = Callable[[Entry], Awaitable[None]]
"""Receives an entry that now belongs to this worker."""


async def create_group(redis: Redis, jobs_key: str) -> None:
    """Create stream and group at `0`, so that jobs queued before the first worker are read. A no-op if they exist."""
    try:
        await redis.xgroup_create(jobs_key, GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


async def read_new(
    redis: Redis, consumer: str, jobs_keys: Sequence[str], block_ms: int | None, count: int
) -> list[Entry]:
    """Up to `count` undelivered entries of the first stream that has any. If none has, wait (None: do not wait).

    Asked for several streams at once, Redis would give so many of each, for which there may be no room. Raises
    `GroupMissingError`.
    """
    if len(jobs_keys) > 1:
        for jobs_key in jobs_keys:
            if found := await read_of(redis, consumer, [jobs_key], None, count):
                return found
        if block_ms is None:
            return []
        count = 1
    return await read_of(redis, consumer, jobs_keys, block_ms, count)


async def read_of(
    redis: Redis, consumer: str, jobs_keys: Sequence[str], block_ms: int | None, count: int
) -> list[Entry]:
    """Up to `count` undelivered entries of each stream; `block_ms` None: do not wait. Raises `GroupMissingError`."""
    streams: Any = dict.fromkeys(jobs_keys, ">")
    sent_at = time.monotonic()
    reply: Any = await unless_missing(redis.xreadgroup(GROUP, consumer, streams, count=count, block=block_ms))
    return [
        Entry(
            jobs_key=key.decode(),
            entry_id=entry_id.decode(),
            fields=fields,
            delivery=1,
            taken_at=sent_at,
            is_first=True,
        )
        for key, entries in reply
        for entry_id, fields in entries
    ]


async def pending_of(redis: Redis, consumer: str, jobs_key: str) -> list[tuple[str, int, float]]:
    """Entry id, delivery count and monotonic delivery time of each pending entry. Raises `GroupMissingError`."""
    found: list[tuple[str, int, float]] = []
    start = "-"
    while True:
        sent_at = time.monotonic()
        reply: Any = await unless_missing(redis.xpending_range(jobs_key, GROUP, start, "+", _PAGE, consumer))
        found += [
            (item["message_id"].decode(), item["times_delivered"], sent_at - item["time_since_delivered"] / 1000)
            for item in reply
        ]
        if len(reply) < _PAGE:
            return found
        start = after(found[-1][0])


async def read_again(redis: Redis, jobs_key: str, entry_id: str, delivery: int, taken_at: float) -> list[Entry]:
    """The entry with this id; an empty list if the stream no longer has it."""
    reply: Any = await redis.xrange(jobs_key, entry_id, entry_id)
    return [
        Entry(jobs_key=jobs_key, entry_id=entry_id, fields=fields, delivery=delivery, taken_at=taken_at)
        for _, fields in reply
    ]


def tell_removed(jobs_key: str, removed: int) -> None:
    """Warn of entries that were removed from the stream while they were pending."""
    if removed:
        remedy = "rollstream doctor names the batches, rollstream cancel answers what is open of them"
        log.warning("pending jobs are gone from the stream", key=jobs_key, jobs=removed, remedy=remedy)


async def idle_consumers(redis: Redis, jobs_key: str, idle_s: float) -> list[str]:
    """Names of consumers that hold no entries and were idle for `idle_s` seconds.

    From 7.2 on Redis counts from their last read, before that from the last that got an entry.
    """
    reply: Any = await unless_missing(redis.xinfo_consumers(jobs_key, GROUP))
    return [item["name"].decode() for item in reply if item["pending"] == 0 and item["idle"] > 1000 * idle_s]


async def unless_missing(command: Awaitable[Any]) -> Any:
    """The reply. Raises `GroupMissingError` if stream or group is gone, as after Redis was restarted empty."""
    try:
        return await command
    except ResponseError as error:
        if "NOGROUP" in str(error) or "no such key" in str(error):
            raise GroupMissingError(str(error)) from None
        raise
