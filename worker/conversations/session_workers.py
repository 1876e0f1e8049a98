"""Which worker ran a session's last turn, as Redis remembers it. A hint: whatever goes wrong, the job runs here."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys, NameRefusedError
from rollstream.schemas.hashes.worker_report import ROOM_FIELDS
from rollstream.schemas.keys import check_name
from rollstream.schemas.times import SESSION_WORKER_TTL_S

from ..redis_io.connections import cancelled
from .affinity import is_leaving, takes_soon

log = structlog.get_logger()


class SessionWorkers:
    """Reads and writes who has a session's prefix. What it reads is hostile until it was checked."""

    def __init__(self, *, redis: Redis, keys: Keys, consumer: str) -> None:
        self._redis = redis
        self._keys = keys
        self._consumer = consumer

    async def worth_waiting_for(self, session: str) -> str | None:
        """Another live worker that ran the session's last turn and takes jobs now; None: run it here."""
        try:
            noted: Any = await self._redis.get(self._keys.session_worker(session))
            owner = _consumer(noted)
            if owner is None or owner == self._consumer:
                return None
            said: Any = self._redis.hmget(self._keys.worker(owner), ROOM_FIELDS)
            return owner if takes_soon(await said) else None
        except RedisError as error:
            self._ignore(session, error)
            return None

    async def is_leaving(self, worker: str) -> bool:
        """Whether this worker is known to be gone, or to drain: its report may lie on a node that is away."""
        try:
            said: Any = self._redis.hmget(self._keys.worker(worker), ROOM_FIELDS)
            return is_leaving(await said)
        except RedisError as error:
            self._ignore(worker, error)
            return False

    async def runs_here(self, session: str) -> None:
        """Note that this worker has the session from now on."""
        try:
            await self._redis.set(self._keys.session_worker(session), self._consumer, ex=SESSION_WORKER_TTL_S)
        except RedisError as error:
            self._ignore(session, error)

    def _ignore(self, of: str, error: RedisError) -> None:
        if cancelled():
            raise asyncio.CancelledError from error
        log.debug("session's worker not known", of=of, error=str(error))


def _consumer(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return check_name("consumer", value.decode("ascii", "replace"))
    except NameRefusedError:
        return None
