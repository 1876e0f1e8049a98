"""Check that this Redis can serve a worker, before anything is loaded.

Faults that may pass are waited for, with a warning at each try: Redis away, loading or a replica, a name that does not
resolve yet, too many clients. Others are a `SettingsError`: password, rights, database, version, TLS, limits.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog
from redis import exceptions
from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.transport.acl import Role, is_old, missing_rights, named, remedy
from rollstream.transport.redis import is_split, nodes_of
from rollstream.transport.redis.urls import CLUSTER_PREFIXES, SENTINEL_FORM, RedisUrl

from ..config import WorkerSettings
from ..errors import SettingsError
from ..measure.redis_errors import FAILED
from .redis_hopeless import explained, why_hopeless

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_OLDEST = (6, 2)

log = structlog.get_logger()


class _NotYetError(exceptions.RedisError):
    """Raised while Redis answers but cannot serve a worker yet."""


async def wait_for_redis(redis: Redis, settings: WorkerSettings) -> None:
    """Return once Redis, or each node of a cluster, can serve. Raises `SettingsError` if waiting cannot help."""
    place, pause = settings.access.place(), _FIRST_PAUSE_S
    while True:
        try:
            await _look(redis, settings, place)
        except exceptions.RedisError as error:
            if problem := await why_hopeless(error, settings.access):
                raise SettingsError(f"--redis {place}: {problem}") from None
            FAILED.add()
            why = explained(error)
            log.warning("redis cannot serve yet, trying again", error=why, redis=str(place), pause_s=pause)
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


async def _look(redis: Redis, settings: WorkerSettings, place: RedisUrl) -> None:
    for name, node in (await nodes_of(redis)).items():
        with suppress(exceptions.NoPermissionError):  # INFO is named below, with all else that is missing
            info = await node.info()
            _check(f"{place} ({name})" if name else str(place), info, in_cluster=is_split(redis))
    keys = Keys(settings.policy, partitions=settings.partitions)
    if missing := await missing_rights(redis, Role.WORKER, keys):
        user = str(place.options.get("username", ""))
        advice = remedy(Role.WORKER, keys.policy, user, is_old=await is_old(redis))
        lacks = f"this user may not send {named(missing, keys.policy)} ({next(iter(missing.values()))})"
        raise SettingsError(f"--redis {place}: {lacks}: {advice}")


def _check(shown: str, info: dict[str, object], *, in_cluster: bool) -> None:
    """Check one server. Raises `SettingsError`, `_NotYetError`."""
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < _OLDEST:
        raise SettingsError(f"--redis {shown}: Redis {version} is too old, 6.2 or newer is needed")
    if info.get("redis_mode") == "sentinel":
        raise SettingsError(f"--redis {shown}: it is a Sentinel, which keeps no jobs: write {SENTINEL_FORM}")
    if info.get("cluster_enabled") and not in_cluster:
        raise SettingsError(f"--redis {shown}: it is a node of a Redis Cluster: write {CLUSTER_PREFIXES}")
    eviction = str(info.get("maxmemory_policy", "noeviction"))
    if eviction != "noeviction":
        problem = f"maxmemory-policy is {eviction}: under pressure Redis would delete jobs; set it to noeviction"
        raise SettingsError(f"--redis {shown}: {problem}")
    if info.get("role") == "slave":
        raise _NotYetError("it is a replica, which takes no writes: give the URL of the primary, or promote it")
    if not info.get("aof_enabled"):
        log.warning("redis has no append-only file: what it holds is gone when it crashes", redis=shown)
    log.info("redis connected", redis=shown, version=version)
