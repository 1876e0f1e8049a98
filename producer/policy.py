"""New weights become a policy version: one entry of the control stream, whose ids Redis itself lets only grow.

The entry is the last thing that a publish writes. One that was cut short before it leaves nothing that a worker takes:
a folder, or an adapter under a name of its own that expires.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from producer.adapter_files import AdapterFiles, AdapterSource, read_adapter
from producer.adapter_upload import POLICY_PREFIX, upload
from producer.checkpoint_files import CheckpointFolder
from producer.connection import Connection
from producer.policy_errors import MAX_VERSION, PolicyVersionError
from producer.progress import byte_bar
from schemas import Keys, PolicyVersion, SchemaError, decode, encode

_KEPT = 1000
"""About how many announcements the stream keeps; workers look at the newest few."""


@dataclass(frozen=True, slots=True)
class Announced:
    """One entry of the control stream, readable or not."""

    entry_id: str
    announcement: PolicyVersion | None
    problem: str
    """Why it cannot be read; empty when it can."""

    @property
    def version(self) -> int:
        """What the entry's id says, which is what workers go by."""
        return int(self.entry_id.partition("-")[0])


async def publish_policy(
    connection: Connection,
    keys: Keys,
    version: int,
    checkpoint: Path | str | None,
    adapter: AdapterSource | None,
    lora_alpha: float | None,
    *,
    progress: bool,
) -> PolicyVersion:
    """See `AsyncClient.publish_policy`."""
    if adapter is not None and checkpoint is None:
        files = await read_adapter(f"policy version {version!r}", adapter, lora_alpha)
        await _check_publishable(connection, keys, version)
        return await _publish_adapter(connection, keys, version, files, progress=progress)
    if not isinstance(checkpoint, str | Path) or adapter is not None or lora_alpha is not None:
        raise PolicyVersionError(version, "give a folder as checkpoint=, or adapter= and, for tensors, lora_alpha=")
    await _check_publishable(connection, keys, version)
    folder = await asyncio.to_thread(CheckpointFolder, Path(checkpoint))
    with byte_bar(folder.name, folder.num_bytes, shown=progress) as advanced:
        digest = await asyncio.to_thread(folder.digest, advanced)
    return await announce(connection, keys, _announcement(version, "checkpoint", folder.name, digest))


async def _publish_adapter(
    connection: Connection, keys: Keys, version: int, files: AdapterFiles, *, progress: bool
) -> PolicyVersion:
    """Ship it and announce the booted model under it.

    Its name holds its digest: two trainers, or one before and after a crash, never meet under one name with other
    content. Who announces first decides.
    """
    name = f"{POLICY_PREFIX}{files.sha256[:16]}@{version}"
    await upload(connection, keys, name, files, progress=progress)
    return await announce(connection, keys, _announcement(version, "adapter", name, files.sha256))


async def announce(connection: Connection, keys: Keys, announcement: PolicyVersion) -> PolicyVersion:
    """Make it the newest version; announcing the same content again is a no-op. What stands in the stream.

    Raises `PolicyVersionError` when the version is not newer than the newest, `RedisUnavailableError`.
    """
    entry, payload = f"{announcement.version}-0", encode(announcement)

    async def add(redis: Redis) -> bool:
        try:
            await redis.xadd(keys.versions(), {"payload": payload}, id=entry, maxlen=_KEPT, approximate=True)
        except ResponseError as error:
            if "equal or smaller" not in str(error):
                raise
            return False
        return True

    if await connection.call("publish a policy version", add):
        return announcement
    found = await _read(connection, keys, entry, entry)
    if not found:
        raise _backwards(announcement.version, await _newest(connection, keys))
    there = found[0].announcement
    if there is None or _content(there) != _content(announcement):
        newest = await _newest(connection, keys)
        problem = f"it was published with other content: publish your weights as {max(newest, 1) + 1}"
        raise PolicyVersionError(announcement.version, problem, newest, taken=True)
    return there


async def announced_versions(connection: Connection, keys: Keys, count: int) -> list[Announced]:
    """The newest `count` entries of the control stream, the newest first. Raises `RedisUnavailableError`."""
    return await _read(connection, keys, "+", "-", count)


async def _check_publishable(connection: Connection, keys: Keys, version: int) -> None:
    """Before gigabytes are read: raises `PolicyVersionError` for no version, and for one that is too old."""
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise PolicyVersionError(version, f"a version is an integer from 1 to {MAX_VERSION}")
    newest = await _newest(connection, keys)
    if newest > version and not await _read(connection, keys, f"{version}-0", f"{version}-0"):
        raise _backwards(version, newest)


def _backwards(version: int, newest: int) -> PolicyVersionError:
    hint = "" if newest <= MAX_VERSION else ", which no trainer wrote: remove the stream that `Keys.versions` names"
    return PolicyVersionError(version, f"versions only grow, and the newest is {newest}{hint}", newest)


def _announcement(version: int, source: Literal["checkpoint", "adapter"], location: str, sha256: str) -> PolicyVersion:
    return PolicyVersion(version=version, source=source, location=location, sha256=sha256, published_at=time.time())


def _content(announcement: PolicyVersion) -> PolicyVersion:
    return announcement.model_copy(update={"published_at": 0.0})


async def _newest(connection: Connection, keys: Keys) -> int:
    """By the entry's id; 0 where nothing was published."""
    found = await _read(connection, keys, "+", "-")
    return found[0].version if found else 0


async def _read(connection: Connection, keys: Keys, newest: str, oldest: str, count: int = 1) -> list[Announced]:
    entries: Any = await connection.call(
        "read the versions", lambda redis: redis.xrevrange(keys.versions(), newest, oldest, count=count)
    )
    return [_announced(entry_id.decode(), fields.get(b"payload", b"")) for entry_id, fields in entries]


def _announced(entry_id: str, payload: bytes) -> Announced:
    try:
        announcement = decode(payload, PolicyVersion)
    except SchemaError as error:
        return Announced(entry_id, None, str(error))
    if entry_id != f"{announcement.version}-0":
        return Announced(entry_id, None, f"its announcement is that of version {announcement.version}")
    return Announced(entry_id, announcement, "")
