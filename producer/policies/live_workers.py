"""Which workers are alive, and what they report. A report that stays only because Redis' clock was set back does not
count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Keys
from rollstream.schemas.times import is_outlived
from rollstream.schemas.worker_report import REPORT_FIELDS, WorkerReport


async def live_names(redis: Redis, keys: Keys) -> list[str]:
    """Names of live workers, sorted."""
    found = sorted([key async for key in redis.scan_iter(match=keys.workers_pattern(), count=500)])
    async with redis.pipeline(transaction=False) as pipe:
        for key in found:
            pipe.ttl(key)
        left: list[int] = await pipe.execute()
    before = len(keys.worker(""))
    names = [key.decode("utf-8", "backslashreplace")[before:] for key in found]
    return [name for name, ttl_s in zip(names, left, strict=True) if not is_outlived(ttl_s)]


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
