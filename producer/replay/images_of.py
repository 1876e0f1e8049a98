"""Which images the jobs of a replay need: their own, and those of the turns that their prompts go on from."""

from __future__ import annotations

from functools import partial
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import GroupResult, ImageRef, Keys, SchemaError, decode
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.wire.entry_fields import PAYLOAD

from ..redis_io.connection import Connection
from .plan import Replay


async def images_of(connection: Connection, keys: Keys, replay: Replay) -> set[ImageRef]:
    """Each of them once. Those of a turn whose answer is gone are not known: a worker will say `turn_missing`.

    Raises `RedisUnavailableError`.
    """
    jobs = [placed.selected for placed in replay.jobs]
    found = {ref for job in jobs for ref in job.images}
    for batch_id, group in sorted({(turn.batch_id, turn.group) for job in jobs for turn in job.turns}):
        read = partial(_answer, keys=keys, batch_id=batch_id, group=group)
        found |= _images_in(await connection.call("read a turn", read))
    return found


async def _answer(redis: Redis, keys: Keys, batch_id: str, group: int) -> bytes:
    """The payload of a group's answer, which has the images of all turns before it; empty if there is none."""
    client: Any = redis
    at: bytes | None = await client.hget(keys.ledger(batch_id), LedgerField.at(group))
    if at is None or not EntryId.is_one(at):
        return b""
    entries: list[tuple[bytes, dict[bytes, bytes]]] = await client.xrange(keys.results(batch_id), at, at)
    return entries[0][1].get(PAYLOAD, b"") if entries else b""


def _images_in(payload: bytes) -> set[ImageRef]:
    try:
        return set(decode(payload, GroupResult).images)
    except SchemaError:  # a failed group, or what nobody can go on from
        return set()
