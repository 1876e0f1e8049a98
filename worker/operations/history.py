"""Adds what a worker answered to the policy's history, beat by beat, and measures how fast the worker is."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Keys
from rollstream.schemas.history import HistoryField

from ..redis_io.connections import never_passes
from . import scripts

MEASURED_S = 60.0
"""Seconds of work after which a rate is given: over shorter times it depends on when groups happen to end."""

log = structlog.get_logger()


class RateMeter:
    """Tokens per second of the times between beats that began with something to run."""

    def __init__(self) -> None:
        self._before: tuple[float, int, bool] | None = None
        self._seconds = 0.0
        self._tokens = 0

    def look(self, at: float, tokens: int, busy: bool) -> float | None:
        """The rate since the last one, once that is `MEASURED_S` old. `tokens`: so far; `busy`: it generates."""
        before, self._before = self._before, (at, tokens, busy)
        if before is None or not before[2]:
            return None
        self._seconds += at - before[0]
        self._tokens += tokens - before[1]
        if self._seconds < MEASURED_S:
            return None
        rate, self._seconds, self._tokens = self._tokens / self._seconds, 0.0, 0
        return rate or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What one call of the script adds; the same if it is sent again."""

    name: str
    sums: Mapping[str, int]
    tokens_per_s: float | None


class History:
    """Keeps one addition until Redis has it, so that a lost reply counts nothing twice."""

    def __init__(
        self,
        *,
        redis: Redis,
        keys: Keys,
        consumer: str,
        sums: Callable[[], Mapping[str, int]],
        is_busy: Callable[[], bool],
    ) -> None:
        """`sums`: what the worker has answered so far, by the fields of a minute."""
        self._redis = redis
        self._keys = keys
        self._consumer = consumer
        self._sums = sums
        self._is_busy = is_busy
        self._meter = RateMeter()
        self._added: dict[str, int] = {}
        """The part of the sums that is in an addition already."""
        self._addition: Addition | None = None

    async def add(self, now: float) -> None:
        """Call it once after each beat, at `now` by Redis' clock. Raises `RedisError` for faults that pass."""
        sums = self._sums()
        measured = self._meter.look(time.monotonic(), sums.get(HistoryField.TOKENS, 0), self._is_busy())
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
            tokens_per_s=addition.tokens_per_s,
        )

    def _next(self, sums: Mapping[str, int], measured: float | None) -> Addition | None:
        new = {name: total for name, value in sums.items() if (total := value - self._added.get(name, 0))}
        if not new and measured is None:
            return None
        self._added = dict(sums)
        return Addition(name=secrets.token_hex(8), sums=new, tokens_per_s=measured)
