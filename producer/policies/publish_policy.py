"""New weights become a policy version: one entry of the versions stream, in which Redis lets ids only grow.

The entry is the last thing that a publish writes. A publish that ends before it leaves nothing that a worker takes,
only a folder, or an adapter under a name of its own that expires.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Keys, PolicyVersion, SchemaError, decode, encode
from rollstream.schemas.entry_id import MAX_VERSION, EntryId
from rollstream.schemas.keys import POLICY_ADAPTER
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.policies import VersionSource
from rollstream.schemas.wire.requires import unknown_names

from ..progress import byte_bar
from ..redis_io.connection import Connection
from .adapter_expiry import expire_superseded
from .adapter_files import AdapterFiles, AdapterSource, read_adapter
from .adapter_tensors import Scaling
from .adapter_upload import upload
from .checkpoint_files import CheckpointFolder
from .errors import AdapterError, PolicyKindError, PolicyVersionError

_KEPT = 1000
"""About how many announcements the stream keeps; workers read only the newest few."""
_RECENT = 16
"""How many announcements a publish reads."""
_PADDING = b" "
"""Added to the config of a policy version's adapter, so that no other adapter has its digest and its chunks: these
expire soon after the next version."""


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


async def publish_policy(
    connection: Connection,
    keys: Keys,
    version: int,
    checkpoint: Path | str | None,
    adapter: AdapterSource | None,
    scaling: Scaling,
    *,
    progress: bool,
) -> PolicyVersion:
    """See `AsyncClient.publish_policy`."""
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise PolicyVersionError(version, f"a version is an integer from 1 to {MAX_VERSION}")
    if (checkpoint is None) == (adapter is None):
        given = "neither" if adapter is None else "both"
        raise PolicyVersionError(version, f"give its weights as checkpoint= or as adapter=, not {given}")
    if adapter is not None:
        # Before anything is awaited: this copies the tensors.
        files = await read_adapter(f"policy version {version}", adapter, scaling, _PADDING)
        if files.incomplete:
            raise AdapterError(files.name, files.incomplete)
        await _check_publishable(connection, keys, version, "adapter")
        announcement = await _ship(connection, keys, version, files, progress=progress)
    else:
        folder = _folder(version, checkpoint, scaling)
        await _check_publishable(connection, keys, version, "checkpoint")
        announcement = await _read_checkpoint(version, folder, progress=progress)
    await _check_publishable(
        connection, keys, version, announcement.source
    )  # reading the weights took time: check again
    announcement = await announce(connection, keys, announcement)
    if adapter is not None:
        recent = await announced_versions(connection, keys, _RECENT)
        await expire_superseded(connection, keys, [one.announcement for one in recent if one.announcement is not None])
    return announcement


def _folder(version: int, checkpoint: object, scaling: Scaling) -> Path:
    if not isinstance(checkpoint, str | Path):
        raise PolicyVersionError(version, f"checkpoint= is a folder's path, not some {type(checkpoint).__name__}")
    if scaling.given:
        given = scaling.given[0]
        raise PolicyVersionError(version, f"{given}= is for adapter= as tensors: leave it out beside checkpoint=")
    return Path(checkpoint)


async def _read_checkpoint(version: int, path: Path, *, progress: bool) -> PolicyVersion:
    folder = await asyncio.to_thread(CheckpointFolder, path)
    with byte_bar(folder.name, folder.num_bytes, shown=progress) as advanced:
        digest = await asyncio.to_thread(folder.digest, advanced)
    return _announcement(version, "checkpoint", folder.name, digest)


async def _ship(
    connection: Connection, keys: Keys, version: int, files: AdapterFiles, *, progress: bool
) -> PolicyVersion:
    """Upload the adapter under a name that contains its digest.

    So two trainers, or one before and after a crash, never use one name for different content. The first to announce
    the version decides.
    """
    name = f"{POLICY_ADAPTER}{files.sha256[:16]}@{version}"
    await upload(connection, keys, name, files, progress=progress)
    return _announcement(version, "adapter", name, files.sha256)


async def announce(connection: Connection, keys: Keys, announcement: PolicyVersion) -> PolicyVersion:
    """Announce the newest version. Returns what is in the stream: announcing the same content again is a no-op.

    Raises `PolicyVersionError` when the version is not newer than the newest, `RedisUnavailableError`.
    """
    entry, payload = str(EntryId(announcement.version)), encode(announcement)

    async def add(redis: Redis) -> bool:
        try:
            await redis.xadd(keys.versions(), {PAYLOAD: payload}, id=entry, maxlen=_KEPT, approximate=True)
        except ResponseError as error:
            if "equal or smaller" not in str(error):
                raise
            return False
        return True

    if await connection.call("publish a policy version", add):
        return announcement
    found = await _read(connection, keys, entry, entry)
    if not found:
        raise _backwards(announcement.version, await newest_version(connection, keys))
    there = found[0].announcement
    if there is None or _content(there) != _content(announcement):
        newest = await newest_version(connection, keys)
        problem = f"it was published with other content: {_way_on(newest)}"
        raise PolicyVersionError(announcement.version, problem, newest, taken=True)
    return there


async def announced_versions(connection: Connection, keys: Keys, count: int) -> list[Announced]:
    """The newest `count` entries of the versions stream, the newest first. Raises `RedisUnavailableError`."""
    return await _read(connection, keys, "+", "-", count)


async def _check_publishable(connection: Connection, keys: Keys, version: int, source: VersionSource) -> None:
    """Raises `PolicyVersionError` for a version that is too old, `PolicyKindError` for another kind than before."""
    recent = await announced_versions(connection, keys, _RECENT)
    newest = recent[0].version if recent else 0
    entry = str(EntryId(version))
    if newest > version and not await _read(connection, keys, entry, entry):
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
    return f"the newest, {newest}, is one which no trainer wrote: remove the stream that `Keys.versions` names"


def _announcement(version: int, source: VersionSource, location: str, sha256: str) -> PolicyVersion:
    return PolicyVersion(version=version, source=source, location=location, sha256=sha256, published_at=time.time())


def _content(announcement: PolicyVersion) -> PolicyVersion:
    return announcement.model_copy(update={"published_at": 0.0})


async def newest_version(connection: Connection, keys: Keys) -> int:
    """The newest version, by its entry's id; 0 if nothing was published. Raises `RedisUnavailableError`."""
    found = await _read(connection, keys, "+", "-")
    return found[0].version if found else 0


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
