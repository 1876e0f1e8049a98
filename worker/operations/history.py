"""Adds what a worker answered, and how fast it was, to the policy's history, beat by beat."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Keys
from rollstream.schemas.hashes.history import HistoryField

from ..redis_io.connections import never_passes
from . import scripts
from .rate_meter import Filled, Measured, RateMeter

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What one call of the script adds; the same if it is sent again."""

    name: str
    sums: Mapping[str, int]
    measured: Measured | None


class History:
    """Keeps one addition until Redis has it, so that a lost reply counts nothing twice."""

    def __init__(
        self,
        *,
        redis: Redis,
        keys: Keys,
        consumer: str,
        sums: Callable[[], Mapping[str, int]],
        filled: Callable[[], Filled],
    ) -> None:
        """`sums`: what the worker has answered so far, by the fields of a minute."""
        self._redis = redis
        self._keys = keys
        self._consumer = consumer
        self._sums = sums
        self._filled = filled
        self._meter = RateMeter()
        self._added: dict[str, int] = {}
        """The part of the sums that is in an addition already."""
        self._addition: Addition | None = None

    async def add(self, now: float) -> None:
        """Call it once after each beat, at `now` by Redis' clock. Raises `RedisError` for faults that pass."""
        sums = self._sums()
        measured = self._meter.look(time.monotonic(), sums.get(HistoryField.TOKENS, 0), self._filled())
        self._addition = self._addition or self._next(sums, measured)
        if self._addition is None:
            return
        try:
            is_added = await self._send(self._addition, now)
        except ResponseError as error:
            if not never_passes(error):
                raise
            log.debug("history not written", error=str(error))  # one of its keys has another type
            is_added = True
        if is_added:
            self._addition = None

    async def _send(self, addition: Addition, now: float) -> bool:
        return await scripts.add(
            self._redis,
            self._keys,
            consumer=self._consumer,
            now=now,
            name=addition.name,
            sums=addition.sums,
            measured=addition.measured,
        )

    def _next(self, sums: Mapping[str, int], measured: Measured | None) -> Addition | None:
        new = {name: total for name, value in sums.items() if (total := value - self._added.get(name, 0))}
        if not new and measured is None:
            return None
        self._added = dict(sums)
        return Addition(name=secrets.token_hex(8), sums=new, measured=measured)
