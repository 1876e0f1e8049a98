"""The scripts of a beat, each as a typed call."""

from __future__ import annotations

from collections.abc import Mapping

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.hashes.history import HistoryField
from rollstream.schemas.times import HISTORY_TTL_S, LONGEST_REPORT_TTL_S, RATE_TTL_S
from rollstream.transport.redis.scripts import load

from .rate_meter import Measured

BEAT = load(__package__, "beat.lua")
HISTORY = load(__package__, "history.lua")


async def beat(
    redis: Redis, keys: Keys, *, consumer: str, ttl_s: int, fields: Mapping[str, str | int | float]
) -> float:
    """See `beat.lua`: write a worker's report, which lives for `ttl_s`; the unix seconds of Redis' clock.

    Raises `RedisError`.
    """
    words = [word for pair in fields.items() for word in pair]
    names = [keys.worker(consumer), keys.workers()]
    return float(await BEAT(names, [consumer, ttl_s, LONGEST_REPORT_TTL_S, *words]).to(redis))


async def add(
    redis: Redis,
    keys: Keys,
    *,
    consumer: str,
    now: float,
    name: str,
    sums: Mapping[str, int],
    measured: Measured | None,
) -> bool:
    """See `history.lua`: add `sums`, and what was measured, at `now`; False where the worker's report is gone.

    Raises `RedisError`.
    """
    names = [keys.worker(consumer), keys.history(int(now // 60)), keys.rate()]
    speed = ("", 0) if measured is None else (measured.tokens_per_s, int(measured.is_full))
    answered = [sums.get(name, 0) for name in (HistoryField.SEQUENCES, HistoryField.TOKENS, HistoryField.ASKED)]
    words = [word for pair in sums.items() for word in pair]
    args = [name, HISTORY_TTL_S, RATE_TTL_S, *speed, *answered, *words]
    return bool(await HISTORY(names, args).to(redis))
