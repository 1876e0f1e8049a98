"""Read the facts that a waiting call tells about its batch: a few small reads, never of anything large."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import BEFORE_ALL, MAX_VERSION, EntryId
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.hashes.worker_report import WorkerReport, WorkerState
from rollstream.schemas.keys import GROUP, POLICIES
from rollstream.schemas.pause_reason import PAUSED_FIELD
from rollstream.schemas.printable import printable
from rollstream.schemas.wire.scores import Description
from rollstream.transport.redis import is_split

from ..policies.live_workers import live_names, live_reports
from ..redis_io.connection import Connection
from .waited_for import BatchFacts, Reporting, waiting_for

_MOST_JOBS = 1000
"""How many of a batch's jobs are looked at: the first ones."""


async def read_facts(connection: Connection, keys: Keys, batch: Description) -> BatchFacts:
    """Read the facts about a batch. Raises `RedisUnavailableError`."""
    return await connection.call("ask what the batch waits for", partial(_read, keys=keys, batch=batch), told=True)


async def why_unserved(redis: Redis, *, keys: Keys) -> str:
    """A sentence that says that no worker serves the policy, and what to do; empty if one is alive."""
    if await live_names(redis, keys):
        return ""
    elsewhere = () if is_split(redis) else await _other_policies(redis)
    return waiting_for(BatchFacts(policy=keys.policy, partitions=keys.partitions, partition=0, elsewhere=elsewhere))


async def _read(redis: Redis, *, keys: Keys, batch: Description) -> BatchFacts:
    workers = [_reporting(name, report) for name, report in (await live_reports(redis, keys)).items()]
    partition = keys.partition(batch.batch_id)
    jobs = keys.jobs(partition)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hexists(keys.control(), PAUSED_FIELD)
        pipe.xrevrange(keys.versions(), f"{MAX_VERSION}", "-", count=1)
        pipe.hmget(
            keys.ledger(batch.batch_id), [LedgerField.job(job) for job in range(min(batch.num_jobs, _MOST_JOBS))]
        )
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


def _reporting(name: str, report: WorkerReport) -> Reporting:
    return Reporting(
        name=printable(name),
        state=report.state or WorkerState.SERVING,
        paused_for=report.paused_for,
        version=report.policy_version or 0,
        newest=report.newest_version or 0,
        problem=report.policy_error,
        partitions=report.partitions,
        model=report.model,
    )


async def _other_policies(redis: Redis) -> list[str]:
    try:
        found: Any = await redis.zrange(POLICIES, 0, -1)
    except ResponseError:  # this user may read only the keys of its own policy
        return []
    return sorted(map(_text, found))


async def _held(redis: Redis, jobs: str, queued: list[EntryId]) -> Counter[str]:
    ours = set(queued)
    rows: Any = await redis.xpending_range(jobs, GROUP, str(min(ours)), str(max(ours)), _MOST_JOBS)
    return Counter(_text(row["consumer"]) for row in rows if EntryId.of(row["message_id"]) in ours)


def _unless_refused(reply: Any, otherwise: Any) -> Any:
    """The reply, or `otherwise` if Redis refused the command; raises if Redis is away."""
    if isinstance(reply, ResponseError):
        return otherwise
    if isinstance(reply, Exception):
        raise reply
    return reply


def _text(value: bytes) -> str:
    return printable(value[:500].decode("utf-8", "backslashreplace"))
