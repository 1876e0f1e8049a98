"""Name the rights that this worker's user has lost. Whatever needs them waits and only says which command failed."""

from __future__ import annotations

import asyncio

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys
from rollstream.transport.acl import Role, is_old, missing_rights, named, remedy

from ..config import WorkerSettings
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled

PERIOD_S = 2.0

log = structlog.get_logger()


async def watch_rights(redis: Redis, settings: WorkerSettings) -> None:
    """Ask for the rights of a worker whenever commands have failed; ends when it is cancelled."""
    keys, user = Keys(settings.policy), str(settings.access.place().options.get("username", ""))
    failed = FAILED.total
    while not cancelled():
        await asyncio.sleep(PERIOD_S)
        if failed != FAILED.total:
            failed = FAILED.total
            await _look(redis, keys, user)


async def _look(redis: Redis, keys: Keys, user: str) -> None:
    try:
        missing = await missing_rights(redis, Role.WORKER, keys)
        advice = remedy(Role.WORKER, keys.policy, user, is_old=await is_old(redis)) if missing else ""
    except (RedisError, OSError):
        return  # Redis is away: those who need it say so
    if missing:
        log.error("this user lacks rights, what needs them waits", missing=named(missing, keys.policy), remedy=advice)
