"""Jobs that wait for a policy version: pending under a consumer that is named for the version and is no worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP, PARKED

from .errors import MAX_VERSION


@dataclass(frozen=True, slots=True)
class Parked:
    """The jobs of one partition that wait for one version."""

    version: int
    jobs: int
    oldest_s: float
    """Since the oldest of them was queued."""
    oldest_batch: str
    """The batch of the oldest; empty where its entry does not say."""


def waits_for(consumer: str) -> int | None:
    """The version that this consumer's jobs wait for; None for a worker."""
    return version_of(consumer.removeprefix(PARKED)) if consumer.startswith(PARKED) else None


def version_of(text: str) -> int | None:
    """The version that this reads as, if it is one."""
    return int(text) if text.isdecimal() and len(text) <= len(f"{MAX_VERSION}") else None


async def read_parked(redis: Redis, jobs: str, now: float) -> tuple[Parked, ...]:
    """By version; `now` by Redis' clock. The stream must have the workers' group."""
    rows: Any = await redis.xinfo_consumers(jobs, GROUP)
    held = {version: row for row in rows if row["pending"] and (version := waits_for(_text(row["name"]))) is not None}
    found = [await _parked(redis, jobs, version, held[version], now) for version in sorted(held)]
    return tuple(parked for parked in found if parked is not None)


async def _parked(redis: Redis, jobs: str, version: int, row: Any, now: float) -> Parked | None:
    """None when the last of them was taken meanwhile."""
    pending: Any = await redis.xpending_range(jobs, GROUP, "-", "+", 1, consumername=row["name"])
    if not pending:
        return None
    entry_id: bytes = pending[0]["message_id"]
    entries: Any = await redis.xrange(jobs, entry_id, entry_id)
    batch_id = _text(entries[0][1].get(b"batch", b"")) if entries else ""
    return Parked(version, row["pending"], max(0.0, round(now - int(entry_id.split(b"-")[0]) / 1000, 3)), batch_id)


async def newest_announced(redis: Redis, keys: Keys) -> int:
    """The newest policy version on the control stream, by its entry's id; 0 where nothing was published."""
    entries: Any = await redis.xrevrange(keys.versions(), f"{MAX_VERSION}", "-", count=1)
    return int(entries[0][0].split(b"-")[0]) if entries else 0


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
