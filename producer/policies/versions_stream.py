"""The versions stream as a trainer uses it: an entry is a version, and Redis lets ids only grow."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from rollstream.schemas import Keys, PolicyVersion, SchemaError, decode
from rollstream.schemas.entry_id import MAX_VERSION, EntryId, after
from rollstream.schemas.hashes.runs import RunFence, Taken
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.policies import Activate, VersionSource
from rollstream.schemas.wire.requires import unknown_names
from rollstream.transport.versions.scripts import announce as announce_script

from ..redis_io.connection import Connection
from ..run_errors import not_held
from .errors import PolicyKindError, PolicyVersionError

log = logging.getLogger("rollstream")

RECENT = 16
"""How many announcements are read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """One entry of the versions stream, readable or not."""

    entry_id: str
    announcement: PolicyVersion | None
    problem: str
    """Why it cannot be read, or what it needs that this release does not know; empty where neither is so."""

    @property
    def version(self) -> int:
        """The version by the entry's id, which is what workers use."""
        return EntryId.of(self.entry_id).milliseconds

    @property
    def is_at_once(self) -> bool:
        """Whether its announcement activates it, as workers see it."""
        return self.announcement is None or self.announcement.activate.when == "at_once"


async def announce(
    connection: Connection, keys: Keys, announcement: PolicyVersion, fence: RunFence | None = None
) -> PolicyVersion:
    """Announce the newest version. Returns what is in the stream: announcing the same content again is a no-op.

    `fence`: the run through which it is published. Raises `PolicyVersionError` when the version is not newer than the
    newest, `RunTakenError`, `RunLostError`, `RedisUnavailableError`.
    """
    what = "publish a policy version"
    done = await connection.call(what, lambda redis: announce_script(redis, keys, announcement, fence))
    if fence is not None and isinstance(done, Taken):
        raise not_held(keys.policy, fence, done)
    if done:
        return announcement
    found = await read_version(connection, keys, announcement.version)
    if found is None:
        raise _backwards(announcement.version, await announced_version(connection, keys))
    there = found.announcement
    if there is None or _content(there) != _content(announcement):
        newest = await announced_version(connection, keys)
        problem = f"it was published with other content: {_way_on(newest)}"
        raise PolicyVersionError(announcement.version, problem, newest, taken=True)
    if other := [name for name in ("probe", "activate") if getattr(there, name) != getattr(announcement, name)]:
        told = "policy version %d is announced already, with another %s=, which holds: publish %d with yours"
        log.warning(told, there.version, "= and another ".join(other), there.version + 1)
    return there


async def announced_versions(connection: Connection, keys: Keys, count: int) -> list[Announced]:
    """The newest `count` entries of the versions stream, the newest first. Raises `RedisUnavailableError`."""
    return await _read(connection, keys, "+", "-", count)


async def check_publishable(connection: Connection, keys: Keys, version: int, source: VersionSource) -> None:
    """Raises `PolicyVersionError` for a version that is too old, `PolicyKindError` for another kind than before."""
    recent = await announced_versions(connection, keys, RECENT)
    newest = recent[0].version if recent else 0
    if newest > version and await read_version(connection, keys, version) is None:
        raise _backwards(version, newest)
    before = next((one.announcement for one in recent if one.announcement is not None), None)
    if before is not None and before.source != source:
        raise PolicyKindError(version, source, before.version, before.source)


def _backwards(version: int, newest: int) -> PolicyVersionError:
    return PolicyVersionError(version, f"versions only grow, and the newest is {newest}: {_way_on(newest)}", newest)


def _way_on(newest: int) -> str:
    """What to do about a version that cannot be published."""
    if newest < MAX_VERSION:
        return f"publish your weights as {newest + 1}"
    if newest == MAX_VERSION:
        return f"{newest} is the last that there is, start workers and trainer under another policy name"
    streams = "the streams that `Keys.versions` and `Keys.activations` name"
    return f"the newest, {newest}, is one which no trainer wrote: remove {streams}"


def _content(announcement: PolicyVersion) -> PolicyVersion:
    """What two announcements of one version must share: not how it is proven or activated, nor how tensors come."""
    needed = tuple(name for name in announcement.requires if name not in ("activate", "probe"))
    plain = {"published_at": 0.0, "probe": None, "activate": Activate(), "requires": needed, "base": None}
    return announcement.model_copy(update=plain)


async def announced_version(connection: Connection, keys: Keys) -> int:
    """The newest announced version, by its entry's id; 0 if there is none. Raises `RedisUnavailableError`."""
    found = await _read(connection, keys, "+", "-")
    return found[0].version if found else 0


async def read_version(connection: Connection, keys: Keys, version: int) -> Announced | None:
    """The entry of one version; None if there is none, or no more. Raises `RedisUnavailableError`."""
    entry = str(EntryId(version))
    found = await _read(connection, keys, entry, entry)
    return found[0] if found else None


async def all_versions(connection: Connection, keys: Keys) -> AsyncIterator[Announced]:
    """All versions of the stream, the newest first, read by the few. Raises `RedisUnavailableError`."""
    newest = str(EntryId(MAX_VERSION))
    while found := await _read(connection, keys, newest, "-", RECENT):
        for one in found:
            if EntryId.of(one.entry_id).sequence == 0:  # nothing that a trainer writes has another
                yield one
        newest = after(found[-1].entry_id)


async def _read(connection: Connection, keys: Keys, newest: str, oldest: str, count: int = 1) -> list[Announced]:
    entries: Any = await connection.call(
        "read the versions", lambda redis: redis.xrevrange(keys.versions(), newest, oldest, count=count)
    )
    return [_announced(entry_id.decode(), fields.get(PAYLOAD, b"")) for entry_id, fields in entries]


def _announced(entry_id: str, payload: bytes) -> Announced:
    try:
        announcement = decode(payload, PolicyVersion)
    except SchemaError as error:
        return Announced(entry_id=entry_id, announcement=None, problem=str(error))
    if entry_id != str(EntryId(announcement.version)):
        return Announced(
            entry_id=entry_id, announcement=None, problem=f"its announcement is that of version {announcement.version}"
        )
    names = unknown_names(announcement.requires)
    problem = f"it requires {names}, which this release does not know: upgrade rollstream here too" if names else ""
    return Announced(entry_id=entry_id, announcement=announcement, problem=problem)
