"""Which entries of the jobs streams are not finished: they wait for a worker, or one holds them. Never writes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import groupby
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas.entry_id import EntryId, after
from rollstream.schemas.keys import GROUP

from ..redis_io.connection import Connection
from .queue_state import consumer_group

WAITING, RUNNING = "waiting", "running"
_PAGE = 1000


async def read_unfinished(connection: Connection, entries: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """`waiting` or `running` by (stream, entry id), for the unfinished ones. Raises `RedisUnavailableError`."""
    unfinished: dict[tuple[str, str], str] = {}
    for stream, members in groupby(sorted(entries, key=_by_stream), key=_by_stream):
        ids = sorted((entry_id for _, entry_id in members), key=EntryId.of)
        read = partial(_read_states, stream=stream, ids=ids)
        states = await connection.call("read what is unfinished", read)
        unfinished |= {(stream, entry_id): state for entry_id, state in states.items()}
    return unfinished


async def _read_states(redis: Redis, stream: str, ids: list[str]) -> dict[str, str]:
    """Read the group first, then its pending entries: an entry delivered before and not pending now is finished."""
    group = await consumer_group(redis, stream)
    if group is None:
        return dict.fromkeys(ids, WAITING)
    delivered = EntryId.of(group["last-delivered-id"])
    running = await _pending(redis, stream, ids[0], ids[-1])
    states = {entry_id: RUNNING for entry_id in ids if entry_id in running}
    return states | {entry_id: WAITING for entry_id in ids if EntryId.of(entry_id) > delivered}


async def _pending(redis: Redis, stream: str, first: str, last: str) -> set[str]:
    found: set[str] = set()
    while True:
        try:
            rows: Any = await redis.xpending_range(stream, GROUP, first, last, _PAGE)
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                return found
            raise
        found.update(row["message_id"].decode() for row in rows)
        if len(rows) < _PAGE:
            return found
        first = after(rows[-1]["message_id"])


def _by_stream(entry: tuple[str, str]) -> str:
    return entry[0]
