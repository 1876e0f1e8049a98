"""Jobs that wait for a policy version: pending under a consumer whose name has the version and that is no worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.keys import GROUP
from rollstream.schemas.parked import ParkedFor, ParkedForWorker
from rollstream.schemas.wire.entry_fields import named_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """The jobs of one partition that wait for one version."""

    version: int
    jobs: int
    oldest_s: float
    """Seconds since the oldest of these jobs was queued."""
    oldest_batch: str
    """The batch of the oldest job; empty if its entry does not say."""


async def read_parked(redis: Redis, jobs: str, now: float) -> tuple[tuple[Parked, ...], int]:
    """A partition's jobs that wait for versions, sorted by these, and how many wait for the worker of their session.

    `now` by Redis' clock. The stream must have the workers' group.
    """
    rows: Any = await redis.xinfo_consumers(jobs, GROUP)
    held = {parked: row for row in rows if row["pending"] and (parked := ParkedFor.of(_text(row["name"]))) is not None}
    found = [await _parked(redis, jobs, parked.version, held[parked], now) for parked in sorted(held)]
    return tuple(parked for parked in found if parked is not None), for_sessions(rows)


def for_sessions(consumers: Iterable[Mapping[str, Any]]) -> int:
    """How many jobs wait for a worker, by the rows of XINFO CONSUMERS."""
    return sum(row["pending"] for row in consumers if ParkedForWorker.of(_text(row["name"])) is not None)


async def _parked(redis: Redis, jobs: str, version: int, row: Any, now: float) -> Parked | None:
    """The jobs of one parked consumer; None if the last of them was taken meanwhile."""
    pending: Any = await redis.xpending_range(jobs, GROUP, "-", "+", 1, consumername=row["name"])
    if not pending:
        return None
    entry_id: bytes = pending[0]["message_id"]
    entries: Any = await redis.xrange(jobs, entry_id, entry_id)
    batch_id = named_batch(entries[0][1]) if entries else ""
    return Parked(version=version, jobs=row["pending"], oldest_s=EntryId.of(entry_id).age_s(now), oldest_batch=batch_id)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
