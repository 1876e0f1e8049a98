"""The scripts of a round, each as a typed call. Safe to send twice."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from rollstream.schemas.hashes.rounds import ROUND_TTL_S, STALE_MS, Phase, RoundField, RoundState
from rollstream.schemas.keys import Keys

from ..redis.scripts import load

OPEN = load(__package__, "open_round.lua")
JOIN = load(__package__, "join_round.lua")
BEAT = load(__package__, "beat_round.lua")
TURN = load(__package__, "turn_round.lua")


async def open_round(redis: Redis, keys: Keys, epoch: str, call: bytes) -> bool:
    """See `open_round.lua`; False while another trainer's round is under way. Raises `RedisError`."""
    return bool(await OPEN([keys.round(), keys.round_call()], [epoch, call, STALE_MS, ROUND_TTL_S]).whole_to(redis))


async def join_round(redis: Redis, keys: Keys, epoch: str, consumer: str, ranks: int) -> bool:
    """See `join_round.lua`; False where the round is not open any more. Raises `RedisError`."""
    return bool(await JOIN([keys.round()], [epoch, consumer, ranks]).to(redis))


async def beat_round(redis: Redis, keys: Keys, epoch: str, consumer: str = "", did: str = "") -> RoundState:
    """See `beat_round.lua`; the trainer has no name. Raises `RedisError`."""
    field = RoundField.DID.of(consumer) if did else ""
    now, flat = await BEAT([keys.round()], [epoch, RoundField.AT.of(consumer), field, did]).to(redis)
    return RoundState.of(int(now), dict(zip(flat[::2], flat[1::2], strict=True)))


async def turn_round(redis: Redis, keys: Keys, epoch: str, phase: Phase, *, plan: bytes = b"", why: str = "") -> bool:
    """See `turn_round.lua`; False where the round is another, or over. Raises `RedisError`."""
    return bool(await TURN([keys.round()], [epoch, phase, plan, why]).to(redis))


async def called(redis: Redis, keys: Keys) -> Any:
    """The bytes of the newest round's `Round`; None if there is none. Raises `RedisError`."""
    return await redis.get(keys.round_call())
