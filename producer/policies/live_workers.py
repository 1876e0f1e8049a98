"""Which workers are alive, and what they report. The index may name some that are gone, and a report may stay only
because Redis' clock was set back: neither counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import REPORT_FIELDS, WorkerReport
from rollstream.schemas.times import is_outlived

_LONGEST_NAME = 200
"""Bytes. No worker has a longer name: something else wrote it."""
_NO_KEY = -2
"""What TTL answers then."""


async def live_names(redis: Redis, keys: Keys) -> list[str]:
    """Names of live workers, sorted."""
    members: Any = await redis.zrange(keys.workers(), 0, -1)
    names = sorted(member.decode("utf-8", "backslashreplace") for member in members if len(member) <= _LONGEST_NAME)
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.ttl(keys.worker(name))
        left: list[int] = await pipe.execute()
    return [name for name, ttl_s in zip(names, left, strict=True) if ttl_s != _NO_KEY and not is_outlived(ttl_s)]


async def read_reports(redis: Redis, keys: Keys, names: Iterable[str]) -> dict[str, WorkerReport]:
    """By name; without those that report no more, or whose key holds something else."""
    names = list(names)
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hmget(keys.worker(name), REPORT_FIELDS)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
    found = {name: _report(reply) for name, reply in zip(names, replies, strict=True)}
    return {name: report for name, report in found.items() if report is not None}


async def live_reports(redis: Redis, keys: Keys) -> dict[str, WorkerReport]:
    """The reports of live workers, by name and in the order of names."""
    return await read_reports(redis, keys, await live_names(redis, keys))


def _report(reply: Any) -> WorkerReport | None:
    if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
        return None
    if isinstance(reply, Exception):
        raise reply
    return WorkerReport.of_values(reply)
