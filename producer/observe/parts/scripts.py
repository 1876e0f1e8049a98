"""The scripts that read entries without their payloads."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.entry_id import after as after_id
from rollstream.schemas.wire.heads import HEAD_BYTES
from rollstream.transport.redis.scripts import Call, load

PEEK = load(__package__, "peek.lua")
LETTERS = load(__package__, "letters.lua")
RESULTS = load(__package__, "results.lua")
_RESULTS, _RESULT_BYTES = 2000, 8 * 2**20
"""Most entries and bytes of one call: a few milliseconds of Redis' time."""


def peek(stream: str, start: str) -> Call:
    """See `peek.lua`: id and batch of the first entry from `start` on."""
    return PEEK([stream], [start])


def letters(dead_key: str, *, newest: str, oldest: str, count: int, nbytes: int, longest: int) -> Call:
    """See `letters.lua`: id, letter and bytes of the payload of dead letters between two ids, the newest first."""
    return LETTERS([dead_key], [newest, oldest, count, nbytes, longest])


async def results(redis: Redis, stream: str, *, after: EntryId) -> list[tuple[bytes, int, bytes]]:
    """See `results.lua`: entry id, bytes and first bytes of some answers after an id; none: that was all.

    Raises `RedisError`.
    """
    rows: list[list[Any]] = await RESULTS([stream], [after_id(after), _RESULTS, _RESULT_BYTES, HEAD_BYTES]).to(redis)
    return [(entry_id, nbytes, head) for entry_id, nbytes, head in rows]
