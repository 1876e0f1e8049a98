"""How many of the live workers have prepared a version."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import VERSION_FIELDS, WorkerReport, WorkerState
from rollstream.schemas.times import HEARTBEAT_S, LATE_BEATS

_MOST = 10_000
"""Most workers whose reports are read."""


async def live_reports(redis: Redis, keys: Keys) -> list[WorkerReport]:
    """What the workers that are not late report of their versions. Raises `RedisError`."""
    client: Any = redis  # redis-py types no reply exactly
    beats: list[tuple[bytes, float]] = await client.zrange(keys.workers(), 0, _MOST - 1, desc=True, withscores=True)
    if not beats:
        return []
    pipe = client.pipeline(transaction=False)
    for name, _ in beats:
        pipe.hmget(keys.worker(name.decode(errors="replace")), VERSION_FIELDS)
    now = beats[0][1]  # by Redis' clock: one of the workers, this one at least, has just reported
    found = zip(beats, await pipe.execute(), strict=True)
    reports = [(_report(values), now - beat) for (_, beat), values in found]
    alive = [(report, age) for report, age in reports if report.state]  # a dead worker's name outlives its report
    return [report for report, age in alive if age <= LATE_BEATS * (report.heartbeat_s or HEARTBEAT_S)]


def share_reached(reports: Iterable[WorkerReport], version: int, share: float) -> bool:
    """Whether this share of the workers that take jobs could serve the version at once, or serves it.

    Workers that start will load what is active by then; those that drain take no more jobs. One that refused the
    version counts as one that has not prepared it.
    """
    taking = [one for one in reports if one.state in (WorkerState.SERVING, WorkerState.PAUSED)]
    prepared = sum(version in (one.prepared_version, one.policy_version) for one in taking)
    return prepared > 0 and prepared >= ceil(share * len(taking) - 1e-9)


def _report(values: list[bytes | None]) -> WorkerReport:
    told = {name.encode(): value for name, value in zip(VERSION_FIELDS, values, strict=True) if value is not None}
    return WorkerReport.of(told)
