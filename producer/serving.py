"""Who serves which policy version, by the workers' own reports; a worker that died stops counting once its expires."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis

from producer.connection import Connection
from producer.policy import Announced, announced_versions
from producer.policy_errors import MAX_VERSION, VersionTimeoutError, VersionWaitError
from schemas import Keys

Workers = int | Literal["all"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_FIELDS = ("policy_version", "newest_version", "policy_error", "state", "policy_sha256")


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
    sha256: str = ""
    """Of what it serves; empty for what it booted with, and where it does not say."""


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
    newest: Sequence[Announced] = ()
    pause = _FIRST_PAUSE_S
    try:
        async with asyncio.timeout(timeout):
            while True:
                serving = await read_serving(connection, keys)
                # After the reports: in one and the same stream none of them is ahead of it.
                newest = await announced_versions(connection, keys, 1)
                if served(serving, newest, version, workers):
                    return
                await asyncio.sleep(pause)
                pause = min(1.5 * pause, _LONGEST_PAUSE_S)  # each look scans the database
    except TimeoutError:
        counted = _counted(serving)
        behind = {
            name: (one.version, one.problem) for name, one in counted.items() if not _serves(one, newest, version)
        }
        raise VersionTimeoutError(version, workers, len(counted) - len(behind), behind, timeout or 0) from None


def served(serving: Mapping[str, Serving], newest: Sequence[Announced], version: int, workers: Workers) -> bool:
    """Whether enough of those that do not drain serve `version` or a newer one; "all" needs at least one.

    `newest`: the newest entry of the control stream, if it has one. Who serves a version beyond it, or other content in
    its place, is not counted: its version is of a stream that is gone.
    """
    counted = _counted(serving).values()
    there = sum(_serves(one, newest, version) for one in counted)
    return there >= max(1, len(counted)) if workers == "all" else there >= workers


def _serves(one: Serving, newest: Sequence[Announced], version: int) -> bool:
    end = newest[0].version if newest else 0
    announcement = newest[0].announcement if newest and one.version == end else None
    other = announcement is not None and one.sha256 not in ("", announcement.sha256)
    return version <= one.version <= end and not other


def _counted(serving: Mapping[str, Serving]) -> dict[str, Serving]:
    return {name: one for name, one in serving.items() if not one.draining}


def _check(version: object, workers: object, timeout: object) -> None:
    if type(version) is not int or not 0 <= version <= MAX_VERSION:
        raise VersionWaitError("version", version, f"give an integer from 0 to {MAX_VERSION}")
    if workers != "all" and (type(workers) is not int or workers < 1):
        raise VersionWaitError("workers", workers, 'give a number from 1 on, or "all"')
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0):
        raise VersionWaitError("timeout", timeout, "give seconds from 0 on, or None to wait for ever")


def _serving(*fields: bytes | None) -> Serving:
    """Of the values of `_FIELDS`."""
    version, newest, problem, state, sha256 = fields
    draining = state == b"draining"
    return Serving(_number(version), _number(newest), _text(problem or b"")[:500], draining, _text(sha256 or b"")[:64])


def _number(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) <= 10 else -1


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
