"""The stream commands that a consumer needs, each with a typed reply, and what a missing consumer group looks like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from schemas.keys import GROUP
from worker.connections import BLOCK_MS


class GroupMissingError(Exception):
    """Raised when the stream or its consumer group is gone, as after a Redis that came back empty."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One delivered entry of a jobs stream."""

    jobs_key: str
    entry_id: str
    fields: Mapping[bytes, bytes]


async def create_group(redis: Redis, jobs_key: str) -> None:
    """Create stream and group at `0`, so that jobs queued before the first worker are read. A no-op when they exist."""
    try:
        await redis.xgroup_create(jobs_key, GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


async def read_new(redis: Redis, consumer: str, jobs_keys: Iterable[str]) -> list[Entry]:
    """At most one undelivered entry of each stream, waiting up to 2 s for the first. Raises `GroupMissingError`."""
    streams: Any = dict.fromkeys(jobs_keys, ">")
    reply: Any = await _unless_missing(redis.xreadgroup(GROUP, consumer, streams, count=1, block=BLOCK_MS))
    return [Entry(key.decode(), entry_id.decode(), fields) for key, entries in reply for entry_id, fields in entries]


async def pending_ids(redis: Redis, consumer: str, jobs_key: str) -> list[str]:
    """Ids on the pending list of `consumer`, without counting as a delivery. Raises `GroupMissingError`."""
    reply: Any = await _unless_missing(redis.xpending_range(jobs_key, GROUP, "-", "+", 1000, consumer))
    return [item["message_id"].decode() for item in reply]


async def read_again(redis: Redis, jobs_key: str, entry_id: str) -> list[Entry]:
    """The entry with this id, or nothing when the stream no longer has it."""
    reply: Any = await redis.xrange(jobs_key, entry_id, entry_id)
    return [Entry(jobs_key, entry_id, fields) for _, fields in reply]


async def _unless_missing(command: Any) -> Any:
    try:
        return await command
    except ResponseError as error:
        if str(error).startswith("NOGROUP"):
            raise GroupMissingError(str(error)) from None
        raise
