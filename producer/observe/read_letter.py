"""Reads one dead letter for its page."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import DeadLetter, Job, Keys, SchemaError, ScoreJob, decode
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.errors import cut
from rollstream.schemas.field_values import text_of
from rollstream.schemas.printable import printable, printable_lines
from rollstream.schemas.wire.entry_fields import PAYLOAD, named_batch
from rollstream.schemas.wire.envelope import QueuedJob

from ..errors import UnknownLetterError
from ..redis_io.connection import Connection
from .batch_seen import LetterSeen
from .parts import scripts
from .parts.ages import age_s
from .parts.answers import shown_description
from .parts.letters import LONGEST_LETTER

_READ_BYTES = 8 * 2**20
"""The largest payload that is read: its job is told of by the letter alone where it is larger."""
_MOST_PROMPTS = 64


async def read_letter(connection: Connection, keys: Keys, partition: int, letter_id: str) -> LetterSeen:
    """The letter of this id in this partition. Raises `UnknownLetterError`, `RedisUnavailableError`."""
    name = f"{partition}/{letter_id[:50]}"
    if not EntryId.is_one(letter_id) or not 0 <= partition < keys.partitions:
        raise UnknownLetterError(name, keys.policy, "give a partition and an entry id, such as 0/1700000000000-0")

    async def read(redis: Redis) -> LetterSeen | None:
        call = scripts.letters(
            keys.dead(partition), newest=letter_id, oldest=letter_id, count=1, nbytes=1, longest=LONGEST_LETTER
        )
        seconds, micros = await redis.time()
        rows = await call.to(redis)
        if not rows:
            return None
        _, data, nbytes = rows[0]
        payload = await _payload(redis, keys.dead(partition), letter_id) if nbytes <= _READ_BYTES else None
        return _seen(partition, letter_id, data, nbytes, payload, seconds + micros / 1e6)

    found = await connection.call("read a dead letter", read)
    if found is None:
        raise UnknownLetterError(name, keys.policy, "not there (any more), see `rollstream dead ls`")
    return found


async def _payload(redis: Redis, key: str, letter_id: str) -> bytes | None:
    rows: Any = await redis.xrange(key, letter_id, letter_id)
    return rows[0][1].get(PAYLOAD, b"") if rows else None


def _seen(partition: int, letter_id: str, data: bytes, nbytes: int, payload: bytes | None, now: float) -> LetterSeen:
    letter, job = _decoded(data, DeadLetter), None if payload is None else _decoded(payload, Job, ScoreJob)
    problems = [str(one) for one in (letter, job) if isinstance(one, SchemaError)]
    if payload is None:
        problems.append(f"the job has {nbytes} bytes and is not read here: `rollstream dead show` reads it")
    return LetterSeen(
        partition=partition,
        letter_id=letter_id,
        buried_s_ago=EntryId.of(letter_id).age_s(now),
        payload_bytes=nbytes,
        problem=cut(printable("; ".join(problems))),
        **_of_letter(letter, now),
        **_of_job(job),
    )


def _of_letter(letter: DeadLetter | SchemaError, now: float) -> dict[str, Any]:
    if isinstance(letter, SchemaError):
        empty = dict.fromkeys(("batch_id", "entry_id", "error", "traceback", "worker"), "")
        return {**empty, "deliveries": 0, "delivered_s_ago": None, "fields": ()}
    return {
        "batch_id": text_of(named_batch(dict(letter.fields)).encode()),
        "entry_id": cut(printable(letter.entry_id)),
        "error": cut(printable(letter.error)),
        "traceback": printable_lines(letter.traceback[-LONGEST_LETTER:]),
        "worker": cut(letter.worker),
        "deliveries": letter.deliveries,
        "delivered_s_ago": age_s(letter.delivered_at, now),
        "fields": tuple((text_of(name), text_of(value)) for name, value in letter.fields[:16]),
    }


def _of_job(job: QueuedJob | SchemaError | None) -> dict[str, Any]:
    if job is None or isinstance(job, SchemaError):
        return {"groups": None, "prompt_lengths": (), "config": {}}
    each = job.prompt_lengths if isinstance(job, Job) else job.row_lengths
    lengths = tuple(each.tolist()[:_MOST_PROMPTS])
    return {
        "groups": (job.groups.start, job.groups.stop),
        "prompt_lengths": lengths,
        "config": shown_description(job),
    }


def _decoded(data: bytes, *kinds: type[Any]) -> Any:
    try:
        return decode(data, *kinds)
    except SchemaError as error:
        return error
