"""Batches that will never finish by themselves: found by their ledgers, named with a remedy. Never writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Batch, Keys, SchemaError, decode
from rollstream.schemas.errors import shown
from rollstream.schemas.hashes.ledger import LedgerCounts, LedgerField, count

from ..batches.ledger import job_entries
from ..batches.lost_jobs import jobs_are_lost
from ..errors import UnreadableResultError
from .finding import FAIL, WARN, Finding, graded, some
from .questions import ended_streams

LOST, HALF, GONE, UNREADABLE = "lost", "half", "gone", "unreadable"
_MOST = 20_000
"""The most ledgers of a partition that one look reads."""
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSeen:
    """A batch with which something is wrong."""

    batch_id: str
    trouble: str
    """`LOST`: groups are unanswered and no job is left; `HALF`: not all of its jobs were queued; `GONE`: results
    are missing; `UNREADABLE`: workers or producers cannot use its ledger."""
    told: str
    """How much of the batch is there, or why its ledger cannot be used."""


async def troubled_batches(redis: Redis, keys: Keys) -> tuple[BatchSeen, ...]:
    """The policy's batches with which something is wrong, sorted by id. Raises `RedisError`."""
    seen = [one async for page in _pages(redis, keys) for one in await _look(redis, keys, page)]
    return tuple(sorted(seen, key=lambda one: one.batch_id))


async def _pages(redis: Redis, keys: Keys) -> AsyncIterator[list[str]]:
    """Ids of the batches in the indexes, the newest of each partition first."""
    for partition in range(keys.partitions):
        for start in range(0, _MOST, _PAGE):
            members: Any = await redis.zrange(keys.batches(partition), start, start + _PAGE - 1, desc=True)
            if not members:
                break
            names = [member.decode("utf-8", "backslashreplace") for member in members]
            yield [name for name in names if keys.has_batch(partition, name)]


async def _look(redis: Redis, keys: Keys, page: list[str]) -> list[BatchSeen]:
    async with redis.pipeline(transaction=False) as pipe:
        for batch_id in page:
            pipe.hmget(keys.ledger(batch_id), [LedgerField.DONE, LedgerField.GROUPS, LedgerField.DESCRIPTION])
            pipe.xlen(keys.results(batch_id))
            pipe.exists(keys.ledger(batch_id))
        replies: list[Any] = await pipe.execute(raise_on_error=False)
    rows = zip(page, replies[::3], replies[1::3], replies[2::3], strict=True)
    found = [
        await _judged(redis, keys, batch_id, fields, answers)
        for batch_id, fields, answers, is_there in rows
        if is_there != 0  # expired, and not taken off the index yet
    ]
    return [seen for seen in found if seen is not None]


async def _judged(redis: Redis, keys: Keys, batch_id: str, fields: Any, answers: Any) -> BatchSeen | None:
    """What is wrong with one batch; None if it is complete or its jobs wait or run."""
    for reply in (fields, answers):
        if isinstance(reply, RedisError):
            return BatchSeen(batch_id=batch_id, trouble=UNREADABLE, told=str(reply)[:80])
    try:
        counts = LedgerCounts.of(fields[0], fields[1])
        if counts.groups is None:
            return BatchSeen(batch_id=batch_id, trouble=UNREADABLE, told=f"{LedgerField.GROUPS} is missing")
        if answers < min(counts.done, counts.groups):
            return BatchSeen(batch_id=batch_id, trouble=GONE, told=f"{answers} of {counts.done} answers left")
        if fields[2] is None or counts.done >= counts.groups:  # expired half-way, or complete
            return None
        return await _unfinished(redis, keys, batch_id, counts.done, counts.groups, decode(fields[2], Batch))
    except (SchemaError, UnreadableResultError, ValueError) as error:
        return BatchSeen(batch_id=batch_id, trouble=UNREADABLE, told=str(error)[:160])


async def _unfinished(
    redis: Redis, keys: Keys, batch_id: str, done: int, groups: int, batch: Batch
) -> BatchSeen | None:
    if batch.num_groups != groups:
        return BatchSeen(
            batch_id=batch_id, trouble=UNREADABLE, told=f"describes {batch.num_groups} groups, and counts {groups}"
        )
    if problem := await _unpublishable(redis, keys, batch_id):
        return BatchSeen(batch_id=batch_id, trouble=UNREADABLE, told=problem)
    entries = await job_entries(redis, keys, batch_id)
    if len(entries) < batch.num_jobs:
        return BatchSeen(batch_id=batch_id, trouble=HALF, told=f"{len(entries)} of {batch.num_jobs} jobs queued")
    lost = await jobs_are_lost(redis, keys, batch_id, groups, entries)
    return BatchSeen(batch_id=batch_id, trouble=LOST, told=f"{done} of {groups} groups answered") if lost else None


async def _unpublishable(redis: Redis, keys: Keys, batch_id: str) -> str | None:
    """Why Redis would refuse the workers' answers to this batch, though producers can read it; None if it would not."""
    if await ended_streams(redis, [keys.results(batch_id)]):
        return "the last possible id is in its results"
    async for name, value in redis.hscan_iter(keys.ledger(batch_id), match=LedgerField.ANSWERED_JOBS, count=1000):
        try:
            count(shown(name[:40]), value)
        except ValueError as error:
            return str(error)
    return None


def batch_findings(batches: Iterable[BatchSeen], policy: str) -> Iterator[Finding]:
    """One finding on lost jobs, and one for each other trouble that the ledgers show."""
    by_trouble: dict[str, list[str]] = {LOST: [], HALF: [], GONE: [], UNREADABLE: []}
    for one in batches:
        by_trouble[one.trouble].append(f"{one.batch_id} ({one.told})")
    lost, half, gone, unreadable = by_trouble.values()
    yield graded(
        "lost jobs",
        f"{len(lost)} batches have no job left to answer them: {some(lost)}" if lost else "no batch waits for them",
        fail=bool(lost),
        remedy="their entries were removed by hand or are dead letters: rollstream cancel BATCH_ID "
        f"--policy {policy} ends the wait of their producers; then submit or requeue them",
    )
    if half:
        remedy = "unless they are just being submitted: submit them again, or rollstream cancel BATCH_ID"
        yield Finding(check="half a batch", level=WARN, seen=f"{len(half)} batches: {some(half)}", remedy=remedy)
    if gone:
        remedy = "they were removed by hand, and reading the batch is an error: rollstream replay --batch BATCH_ID"
        yield Finding(check="results", level=WARN, seen=f"{len(gone)} batches: {some(gone)}", remedy=remedy)
    if unreadable:
        remedy = "something else wrote them, their jobs become dead letters: submit under another batch_id"
        yield Finding(check="ledgers", level=FAIL, seen=f"{len(unreadable)} batches: {some(unreadable)}", remedy=remedy)
