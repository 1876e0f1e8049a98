"""Activates a version that waits for the workers: once enough have prepared it, or when its time is up."""

from __future__ import annotations

import asyncio
import random
import time

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys
from rollstream.schemas.wire.policies import Activation
from rollstream.transport.versions.scripts import activate

from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled
from .announced import Announced
from .fleet import live_reports, share_reached
from .follower import VersionFollower

LOOK_S = 1.0
"""Seconds between two looks at the fleet, more or less, so that the workers of a fleet look at different times."""

log = structlog.get_logger()


class Activator:
    """Looks after versions that are announced as `when_prepared`. Every worker does; the script takes the first."""

    def __init__(self, *, redis: Redis, keys: Keys, consumer: str, follower: VersionFollower) -> None:
        self._redis = redis
        self._keys = keys
        self._consumer = consumer
        self._follower = follower
        self._seen: dict[Announced, float] = {}
        """When this worker first saw each of them, in monotonic seconds."""

    async def run(self) -> None:
        """Look until cancelled. No answer of Redis stops this."""
        while not cancelled():
            await asyncio.sleep(LOOK_S * random.uniform(0.75, 1.25))
            try:
                await self.look()
            except RedisError as error:
                FAILED.add()
                log.debug("fleet not looked at", error=str(error))

    async def look(self) -> None:
        """Activate the newest version whose time has come. Raises `RedisError`."""
        now = time.monotonic()
        waiting = [one for one in self._follower.pending if one.activate.when == "when_prepared"]
        self._seen = {one: self._seen.get(one, now) for one in waiting}
        for one in waiting:
            if _is_late(one, now - self._seen[one]):
                await self._activate(one, "its time-out is over")
                return
            if self._follower.has_prepared(one) and await self._is_shared(one):
                await self._activate(one, "enough workers have prepared it")
                return

    async def _is_shared(self, announced: Announced) -> bool:
        reports = await live_reports(self._redis, self._keys)
        return share_reached(reports, announced.version, announced.activate.share)

    async def _activate(self, announced: Announced, why: str) -> None:
        activation = Activation(
            version=announced.version, by=self._consumer, at=round(time.time(), 3), sha256=announced.sha256
        )
        found = await activate(self._redis, self._keys, activation)
        log.info("policy version activated", version=announced.version, why=why, outcome=found.outcome)


def _is_late(announced: Announced, waited_s: float) -> bool:
    timeout_s = announced.activate.timeout_s
    return timeout_s is not None and waited_s >= timeout_s
