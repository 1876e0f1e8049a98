"""Read a batch's ledger: its description, and the entry ids of its jobs."""

from __future__ import annotations

from functools import partial
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import Batch, Keys, SchemaError, ScoreDescription, decode
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.hashes.ledger import LedgerField, job_entry
from rollstream.schemas.keys import check_name
from rollstream.schemas.wire.scores import Description

from ..errors import UnknownBatchError, UnreadableResultError
from ..redis_io.connection import Connection
from .read_answers import shown

_DESCRIPTIONS: tuple[type[Description], ...] = (Batch, ScoreDescription)


async def read_batch(connection: Connection, keys: Keys, batch_id: str) -> Batch:
    """The description of a batch of prompts. Raises what `read_description` raises."""
    batch = await read_description(connection, keys, batch_id)
    if not isinstance(batch, Batch):
        problem = "is a batch of rows to score, not of prompts: client.attach and `rollstream results` read it"
        raise UnreadableResultError(batch_id, "ledger", problem)
    return batch


async def read_description(connection: Connection, keys: Keys, batch_id: str) -> Description:
    """The batch's description.

    Raises `UnknownBatchError`, `UnreadableResultError`, `NameRefusedError`, `RedisUnavailableError`.
    """
    key = keys.ledger(check_name("batch_id", batch_id))
    found: Any = await connection.call(
        "read the ledger", lambda redis: redis.hmget(key, [LedgerField.DESCRIPTION, LedgerField.GROUPS])
    )
    data, groups = found
    return described(keys, batch_id, data, groups)


def described(keys: Keys, batch_id: str, data: bytes | None, groups: bytes | None) -> Description:
    """The same, of the ledger's fields. Raises `UnknownBatchError`, `UnreadableResultError`."""
    if data is None:
        problem = "unknown; never submitted, expired, or submitted with another policy or number of partitions"
        raise UnknownBatchError(batch_id, keys.policy, problem)
    try:
        batch = decode(data, *_DESCRIPTIONS)
    except SchemaError as error:
        raise UnreadableResultError(batch_id, "ledger", str(error), data) from None
    if batch.batch_id != batch_id:
        raise UnreadableResultError(batch_id, "ledger", f"describes batch {batch.batch_id!r}", data)
    if groups != b"%d" % batch.num_groups:
        problem = f"describes {batch.num_groups} groups, and counts {shown((groups or b'none')[:20])}"
        raise UnreadableResultError(batch_id, "ledger", problem, data)
    return batch


async def read_job_entries(connection: Connection, keys: Keys, batch_id: str) -> list[str]:
    """Entry ids of the queued jobs, in the order of the jobs. Raises what `read_batch` raises."""
    return await connection.call("read the ledger", partial(job_entries, keys=keys, batch_id=batch_id))


async def job_entries(redis: Redis, keys: Keys, batch_id: str) -> list[str]:
    """The same, from `redis` itself. Raises `UnreadableResultError`."""
    names = redis.hscan_iter(keys.ledger(batch_id), match=LedgerField.JOBS, count=1000)
    found: dict[int, EntryId] = {}
    async for name, value in names:
        try:
            job, entry_id = job_entry(name, value)
        except ValueError as error:
            raise UnreadableResultError(batch_id, "ledger", str(error), value) from None
        found[job] = entry_id
    return [str(found[job]) for job in sorted(found)]
