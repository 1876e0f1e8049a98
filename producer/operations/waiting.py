"""How many jobs no worker has taken yet, and which is the oldest; works also when Redis does not count them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas.entry_id import BEFORE_ALL, LAST_POSSIBLE, EntryId, after

from . import scripts

_MOST_CALLS = 200
"""After so many calls the number counts as unknown, since a status must not take minutes."""
_SLACK_S = 1.0


async def waiting_jobs(redis: Redis, jobs: str, group: dict[str, Any] | None, entries: int) -> int | None:
    """Entries that the workers' `group` has not read; None if counting takes too long or is not allowed.

    Redis counts them from version 7 on, unless an entry was removed by hand; else they are counted here.
    """
    if group is None:
        return entries
    lag: int | None = group.get("lag")
    if lag is not None:
        return lag
    last, waiting = group["last-delivered-id"], 0
    for _ in range(_MOST_CALLS):
        if EntryId.of(last) == LAST_POSSIBLE:
            return waiting
        try:
            count, last = await scripts.waiting(redis, jobs, after=last)
        except ResponseError:  # this user may run no script
            return None
        if not count:
            return waiting
        waiting += count
    return None


async def oldest_waiting(redis: Redis, jobs: str, group: dict[str, Any] | None) -> bytes | None:
    """Id of the entry that is read next; None if no job waits."""
    delivered = EntryId.of(group["last-delivered-id"]) if group else BEFORE_ALL
    if delivered == LAST_POSSIBLE:
        return None
    oldest: Any = await redis.xrange(jobs, min=after(delivered), count=1)
    return oldest[0][0] if oldest else None


def ahead_s(ids: Iterable[bytes | None], now: float) -> float:
    """Seconds by which the newest of these ids is ahead of Redis' clock (it was set back then); 0 if none is ahead."""
    moments = [EntryId.of(entry_id).unix_s for entry_id in ids if entry_id is not None]
    ahead = max(moments, default=0.0) - now
    return round(ahead, 3) if ahead > _SLACK_S else 0.0
