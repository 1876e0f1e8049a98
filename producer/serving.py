"""Who serves which policy version, by the workers' own reports; a worker that died stops counting once its expires."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis

from producer.connection import Connection
from producer.policy_errors import MAX_VERSION, VersionTimeoutError, VersionWaitError
from schemas import Keys

Workers = int | Literal["all"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_FIELDS = ("policy_version", "newest_version", "policy_error", "state")


@dataclass(frozen=True, slots=True)
class Serving:
    """What one live worker reports."""

    version: int
    """-1 for one that does not say: it counts as behind."""
    newest: int
    """The newest version that it has heard of."""
    problem: str
    """Why it refused the newest; empty where it did not."""
    draining: bool
    """It ends: it will not swap any more and takes no jobs."""


async def read_serving(connection: Connection, keys: Keys) -> dict[str, Serving]:
    """Live workers by name. Raises `RedisUnavailableError`."""
    pattern = keys.workers_pattern()

    async def read(redis: Redis) -> dict[str, Serving]:
        names = sorted([key async for key in redis.scan_iter(match=pattern, count=500)])
        async with redis.pipeline(transaction=False) as pipeline:
            for key in names:
                pipeline.hmget(key, _FIELDS)
            replies: Any = await pipeline.execute()
        found = {_text(key)[len(pattern) - 1 :]: reply for key, reply in zip(names, replies, strict=True)}
        return {name: _serving(*reply) for name, reply in found.items() if any(field is not None for field in reply)}

    return await connection.call("read the workers", read)


async def wait_for_version(
    connection: Connection, keys: Keys, version: int, workers: Workers, timeout: float | None
) -> None:
    """See `AsyncClient.wait_for_version`."""
    _check(version, workers, timeout)
    serving: Mapping[str, Serving] = {}
    pause = _FIRST_PAUSE_S
    try:
        async with asyncio.timeout(timeout):
            while not served(serving := await read_serving(connection, keys), version, workers):
                await asyncio.sleep(pause)
                pause = min(1.5 * pause, _LONGEST_PAUSE_S)  # each look scans the database
    except TimeoutError:
        behind = {name: (one.version, one.problem) for name, one in _counted(serving).items() if one.version < version}
        there = len(_counted(serving)) - len(behind)
        raise VersionTimeoutError(version, workers, there, behind, timeout or 0) from None


def served(serving: Mapping[str, Serving], version: int, workers: Workers) -> bool:
    """Whether enough of those that do not drain serve `version` or a newer one; "all" needs at least one."""
    counted = _counted(serving).values()
    there = sum(one.version >= version for one in counted)
    return there >= max(1, len(counted)) if workers == "all" else there >= workers


def _counted(serving: Mapping[str, Serving]) -> dict[str, Serving]:
    return {name: one for name, one in serving.items() if not one.draining}


def _check(version: object, workers: object, timeout: object) -> None:
    if type(version) is not int or not 0 <= version <= MAX_VERSION:
        raise VersionWaitError("version", version, f"give an integer from 0 to {MAX_VERSION}")
    if workers != "all" and (type(workers) is not int or workers < 1):
        raise VersionWaitError("workers", workers, 'give a number from 1 on, or "all"')
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0):
        raise VersionWaitError("timeout", timeout, "give seconds from 0 on, or None to wait for ever")


def _serving(version: bytes | None, newest: bytes | None, problem: bytes | None, state: bytes | None) -> Serving:
    return Serving(_number(version), _number(newest), _text(problem or b"")[:500], state == b"draining")


def _number(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) <= 10 else -1


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
