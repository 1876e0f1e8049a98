"""Dead letters of every partition: listed without their payloads, read whole one by one, queued again, dropped.

A letter's name is its entry id, with the partition before it (`3/1700000000000-0`) if two letters have the same id.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import DeadLetter, Keys, SchemaError, decode
from rollstream.schemas.entry_id import EntryId, after
from rollstream.schemas.wire.entry_fields import LETTER, PAYLOAD, named_batch
from rollstream.schemas.wire.envelope import QueuedJob

from ..errors import RequeueRefusedError, UnknownLetterError
from ..redis_io.connection import Connection
from . import scripts
from .replay import replay_dead
from .selection import Place, letter_texts, queued_job

_DROP_COUNT = 500
_NAME_LENGTH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One dead letter, as listed."""

    partition: int
    entry_id: str
    """The id in the stream of dead letters, not that of the job."""
    data: bytes
    """The encoded `DeadLetter`, not yet decoded."""
    payload_bytes: int

    @property
    def name(self) -> str:
        """The name that `find` takes."""
        return f"{self.partition}/{self.entry_id}"

    def read(self) -> DeadLetter | SchemaError:
        """Why and when the job was given up on, or why that cannot be read."""
        try:
            return decode(self.data, DeadLetter)
        except SchemaError as error:
            return error

    @property
    def batch_id(self) -> str:
        """From the job entry's plain fields; empty if they do not say."""
        letter = self.read()
        fields = {} if isinstance(letter, SchemaError) else dict(letter.fields)
        return named_batch(fields)


@dataclass(frozen=True, kw_only=True)
class Letter:
    """One dead letter with its payload."""

    listed: Listed
    payload: bytes

    @cached_property
    def job(self) -> QueuedJob | SchemaError:
        """The decoded job, or why it cannot be queued again."""
        try:
            return queued_job(self.payload)
        except SchemaError as error:
            return error


async def letters(connection: Connection, keys: Keys, text: str = "") -> AsyncIterator[Listed]:
    """Letters with `text` in their error, batch id, worker or entry ids, the oldest of each partition first.

    Raises `RedisUnavailableError`.
    """
    for partition in range(keys.partitions):
        async for listed in _partition(connection, keys, partition):
            place = Place(stream=keys.dead(partition), entry_id=listed.entry_id)
            if text in "\n".join(letter_texts(place, {LETTER: listed.data})):
                yield listed


async def _partition(connection: Connection, keys: Keys, partition: int) -> AsyncIterator[Listed]:
    read, start = partial(scripts.dead, key=keys.dead(partition)), "-"
    while rows := await connection.call("list dead letters", partial(read, start=start)):
        for entry, data, size in rows:
            yield Listed(partition=partition, entry_id=entry, data=data, payload_bytes=size)
        start = after(rows[-1][0])


async def find(connection: Connection, keys: Keys, name: str) -> Letter:
    """The letter of that name. Raises `UnknownLetterError`, `RedisUnavailableError`."""
    where, _, entry_id = name.rpartition("/")
    if not EntryId.is_one(entry_id) or (where and not (where.isascii() and where.isdigit() and len(where) < 5)):
        raise UnknownLetterError(
            name, keys.policy, "write an entry id such as 1700000000000-0, see `rollstream dead ls`"
        )
    partitions = [int(where)] if where else range(keys.partitions)
    found = [letter for p in partitions if (letter := await _read(connection, keys, p, entry_id)) is not None]
    if not found:
        raise UnknownLetterError(name, keys.policy, "not there (any more), see `rollstream dead ls`")
    if len(found) > 1:
        names = " or ".join(letter.listed.name for letter in found)
        raise UnknownLetterError(name, keys.policy, f"there are several: write {names}")
    return found[0]


async def _read(connection: Connection, keys: Keys, partition: int, entry_id: str) -> Letter | None:
    key = keys.dead(partition)
    rows: Any = await connection.call("read a dead letter", lambda redis: redis.xrange(key, entry_id, entry_id))
    if not rows:
        return None
    entry, fields = rows[0]
    payload = fields.get(PAYLOAD, b"")
    return Letter(
        listed=Listed(
            partition=partition, entry_id=entry.decode(), data=fields.get(LETTER, b""), payload_bytes=len(payload)
        ),
        payload=payload,
    )


async def requeue(connection: Connection, keys: Keys, letter: Letter) -> str:
    """Queue the letter's job again as a batch of its own, then drop the letter. Returns the new batch's id.

    The new id follows from the letter, so repeating the call after a failure neither loses nor doubles the job.
    Raises `RequeueRefusedError`, and what `replay_dead` raises; the letter then stays.
    """
    if isinstance(letter.job, SchemaError):
        raise RequeueRefusedError(letter.listed.name, str(letter.job))
    suffix = f".requeue-{letter.listed.entry_id}"
    batch_id = letter.job.batch_id[: _NAME_LENGTH - len(suffix)] + suffix
    place = Place(stream=keys.dead(letter.listed.partition), entry_id=letter.listed.entry_id)
    await replay_dead(connection, keys, [place], batch_id)
    await drop(connection, keys, [letter.listed])
    return batch_id


async def drop(connection: Connection, keys: Keys, listed: Iterable[Listed]) -> None:
    """Remove letters and their payloads; a letter that is gone already is no error. Raises `RedisUnavailableError`."""
    for partition, members in groupby(sorted(listed, key=_partition_of), key=_partition_of):
        key, entries = keys.dead(partition), [letter.entry_id for letter in members]
        for start in range(0, len(entries), _DROP_COUNT):
            some = entries[start : start + _DROP_COUNT]
            await connection.call("drop dead letters", partial(_delete, key=key, entries=some))


def _partition_of(listed: Listed) -> int:
    return listed.partition


async def _delete(redis: Redis, key: str, entries: list[str]) -> int:
    return int(await redis.xdel(key, *entries))
