"""The script of this room as a typed call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from rollstream.schemas import Keys, encode
from rollstream.schemas.entry_id import MAX_VERSION, version_of
from rollstream.schemas.wire.policies import Activation

from ..redis.scripts import load

ACTIVATE = load(__package__, "activate.lua")
_KEPT = 1000
"""About how many activations the stream keeps; workers and trainers read only the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """What came of it, see `activate.lua`."""

    outcome: Literal["activated", "already", "unknown", "older"]
    last: int | None
    """The version of the last activation; None if there is none, or what is there is no version."""


async def activate(redis: Redis, keys: Keys, activation: Activation) -> Activated:
    """See `activate.lua`; safe to send twice. Raises `RedisError`, also where a key is no stream."""
    args = activation.version, encode(activation), _KEPT, MAX_VERSION
    outcome, last = await ACTIVATE([keys.versions(), keys.activations()], args).to(redis)
    return Activated(outcome=outcome.decode(), last=version_of(last.decode()))
