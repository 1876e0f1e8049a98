"""Reads what a waiting call tells of its batch: a few small reads, of nothing that may be large."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Batch, Keys
from rollstream.schemas.entry_id import BEFORE_ALL, MAX_VERSION, EntryId
from rollstream.schemas.keys import GROUP
from rollstream.schemas.printable import printable
from rollstream.transport.redis import is_split

from ..redis_io.connection import Connection
from .waited_for import BatchFacts, Reporting

_FIELDS = ("state", "paused_for", "policy_version", "newest_version", "policy_error", "partitions", "model")
_MOST_JOBS = 1000
"""Of a batch that are looked at, the first ones."""
_POLICY = re.compile(rb"rs:\{([^{}:]+)\}:workers:")


async def read_facts(connection: Connection, keys: Keys, batch: Batch) -> BatchFacts:
    """Raises `RedisUnavailableError`."""
    return await connection.call("ask what the batch waits for", partial(_read, keys=keys, batch=batch), told=True)


async def _read(redis: Redis, *, keys: Keys, batch: Batch) -> BatchFacts:
    workers = await _workers(redis, keys)
    partition = keys.partition(batch.batch_id)
    jobs = keys.jobs(partition)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hexists(keys.control(), "paused")
        pipe.xrevrange(keys.versions(), f"{MAX_VERSION}", "-", count=1)
        pipe.hmget(keys.ledger(batch.batch_id), [f"job:{job}" for job in range(min(batch.num_jobs, _MOST_JOBS))])
        pipe.xinfo_groups(jobs)
        paused, versions, entries, groups = await pipe.execute(raise_on_error=False)
    queued = [EntryId.of(entry) for entry in _unless_refused(entries, []) if entry and EntryId.is_one(entry)]
    group = next((one for one in _unless_refused(groups, []) if one["name"] == GROUP.encode()), None)
    delivered = EntryId.of(group["last-delivered-id"]) if group else BEFORE_ALL
    newest = _unless_refused(versions, [])
    return BatchFacts(
        policy=keys.policy,
        partitions=keys.partitions,
        partition=partition,
        workers=workers,
        elsewhere=() if workers or is_split(redis) else await _other_policies(redis),
        paused=bool(_unless_refused(paused, 0)),
        newest=EntryId.of(newest[0][0]).milliseconds if newest else 0,
        jobs=batch.num_jobs,
        waiting=sum(entry > delivered for entry in queued),
        held=await _held(redis, jobs, queued) if group and group["pending"] and queued else {},
        backlog=group.get("lag") if group else None,
    )


async def _workers(redis: Redis, keys: Keys) -> list[Reporting]:
    pattern = keys.workers_pattern()
    names = sorted([key async for key in redis.scan_iter(match=pattern, count=500)])
    async with redis.pipeline(transaction=False) as pipe:
        for key in names:
            pipe.hmget(key, _FIELDS)
        replies = await pipe.execute(raise_on_error=False)
    found = zip(names, (_unless_refused(reply, [None]) for reply in replies), strict=True)
    return [_reporting(_text(key)[len(pattern) - 1 :], *reply) for key, reply in found if any(reply)]


def _reporting(name: str, *fields: bytes | None) -> Reporting:
    """The values of `_FIELDS`; a field that makes no sense is as one that is not there."""
    state, paused_for, version, newest, problem, partitions, model = fields
    return Reporting(
        name=name,
        state=_text(state or b"serving"),
        paused_for=tuple(filter(None, _text(paused_for or b"").split(","))),
        version=_number(version) or 0,
        newest=_number(newest) or 0,
        problem=_text(problem or b""),
        partitions=_number(partitions),
        model=_text(model or b""),
    )


async def _other_policies(redis: Redis) -> list[str]:
    keys = [key async for key in redis.scan_iter(match="rs:{*}:workers:*", count=500)]
    return sorted({_text(match[1]) for key in keys if (match := _POLICY.match(key))})


async def _held(redis: Redis, jobs: str, queued: list[EntryId]) -> Counter[str]:
    ours = set(queued)
    rows: Any = await redis.xpending_range(jobs, GROUP, str(min(ours)), str(max(ours)), _MOST_JOBS)
    return Counter(_text(row["consumer"]) for row in rows if EntryId.of(row["message_id"]) in ours)


def _unless_refused(reply: Any, otherwise: Any) -> Any:
    """A key that is not there, or of another type, tells nothing; Redis away is an error."""
    if isinstance(reply, ResponseError):
        return otherwise
    if isinstance(reply, Exception):
        raise reply
    return reply


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) <= 10 else None


def _text(value: bytes) -> str:
    return printable(value[:500].decode("utf-8", "backslashreplace"))
