"""The scripts of this room as typed calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis

from rollstream.schemas import Keys, encode
from rollstream.schemas.entry_id import MAX_VERSION, version_of
from rollstream.schemas.hashes.runs import RunFence, Taken
from rollstream.schemas.wire.policies import Activation, PolicyVersion

from ..redis.scripts import Word, load

ACTIVATE = load(__package__, "activate.lua", with_run_fence=True)
ANNOUNCE = load(__package__, "announce.lua", with_run_fence=True)
_HEADS = load(__package__, "heads.lua")
_KEPT = 1000
"""About how many entries each of the two streams keeps; workers and trainers read only the newest few."""
_SHOWN_BYTES = 1024
"""Enough for all fields of an announcement that come before its probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """What came of it, see `activate.lua`."""

    outcome: Literal["activated", "already", "unknown", "older", "taken"]
    last: int | None
    """The version of the last activation; None if there is none, or what is there is no version."""
    taken: Taken | None = None
    """Who has the run, if the outcome is `taken`: nothing was written."""


async def announce(
    redis: Redis, keys: Keys, announcement: PolicyVersion, fence: RunFence | None = None
) -> bool | Taken:
    """See `announce.lua`; False where the stream has this version or a later one. Raises `RedisError`.

    `fence`: the run through which a trainer announces it.
    """
    names, words = _fenced(keys, fence)
    args: list[Word] = [announcement.version, encode(announcement), _KEPT, *words]
    reply = await ANNOUNCE([keys.versions(), keys.activations(), *names], args).whole_to(redis)
    return Taken.of(reply) or bool(reply)


async def activate(redis: Redis, keys: Keys, activation: Activation, fence: RunFence | None = None) -> Activated:
    """See `activate.lua`; safe to send twice. Raises `RedisError`, also where a key is no stream."""
    names, words = _fenced(keys, fence)
    args: list[Word] = [activation.version, encode(activation), _KEPT, MAX_VERSION, activation.sha256, *words]
    reply = await ACTIVATE([keys.versions(), keys.activations(), *names], args).to(redis)
    if (taken := Taken.of(reply)) is not None:
        return Activated(outcome="taken", last=None, taken=taken)
    outcome, last = reply
    return Activated(outcome=outcome.decode(), last=version_of(last.decode()))


def _fenced(keys: Keys, fence: RunFence | None) -> tuple[list[str], list[str]]:
    """Keys and arguments by which a script asks who has the run."""
    return ([], []) if fence is None else ([keys.run(fence.name)], [fence.token])


async def heads(redis: Redis, keys: Keys) -> list[Any]:
    """What changes with the newest entry of each stream, the versions and the activations; empty where there is none.

    Raises `RedisError`, with the name of a key that is no stream.
    """
    args = MAX_VERSION, _SHOWN_BYTES
    return list(await _HEADS([keys.versions(), keys.activations()], args).to(redis))
