"""The scripts of this room as typed calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis

from rollstream.schemas import Keys, encode
from rollstream.schemas.entry_id import MAX_VERSION, version_of
from rollstream.schemas.wire.policies import Activation, PolicyVersion

from ..redis.scripts import load

ACTIVATE = load(__package__, "activate.lua")
ANNOUNCE = load(__package__, "announce.lua")
_HEADS = load(__package__, "heads.lua")
_KEPT = 1000
"""About how many entries each of the two streams keeps; workers and trainers read only the newest few."""
_SHOWN_BYTES = 1024
"""Enough for all fields of an announcement that come before its probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """What came of it, see `activate.lua`."""

    outcome: Literal["activated", "already", "unknown", "older"]
    last: int | None
    """The version of the last activation; None if there is none, or what is there is no version."""


async def announce(redis: Redis, keys: Keys, announcement: PolicyVersion) -> bool:
    """See `announce.lua`; False where the stream has this version or a later one. Raises `RedisError`."""
    args = announcement.version, encode(announcement), _KEPT
    return bool(await ANNOUNCE([keys.versions(), keys.activations()], args).whole_to(redis))


async def activate(redis: Redis, keys: Keys, activation: Activation) -> Activated:
    """See `activate.lua`; safe to send twice. Raises `RedisError`, also where a key is no stream."""
    args = activation.version, encode(activation), _KEPT, MAX_VERSION, activation.sha256
    outcome, last = await ACTIVATE([keys.versions(), keys.activations()], args).to(redis)
    return Activated(outcome=outcome.decode(), last=version_of(last.decode()))


async def heads(redis: Redis, keys: Keys) -> list[Any]:
    """What changes with the newest entry of each stream, the versions and the activations; empty where there is none.

    Raises `RedisError`, with the name of a key that is no stream.
    """
    args = MAX_VERSION, _SHOWN_BYTES
    return list(await _HEADS([keys.versions(), keys.activations()], args).to(redis))
