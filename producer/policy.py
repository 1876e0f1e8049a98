"""New weights become a policy version: one entry of the control stream, whose ids Redis itself lets only grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from producer.connection import Connection
from producer.policy_errors import CheckpointError, PolicyVersionError, VersionTimeoutError
from schemas import Keys, NameRefusedError, PolicyVersion, SchemaError, decode, encode
from schemas.content_digest import CHECKPOINT_FILES, content_digest
from schemas.keys import check_name

_POLL_S = 0.1
_PIECE = 8 * 2**20


def describe_checkpoint(version: int, folder: Path) -> PolicyVersion:
    """Read and digest a checkpoint's files (blocking: seconds for gigabytes). Raises `CheckpointError`."""
    try:
        name = check_name("checkpoint folder", folder.resolve().name)
        files = sorted({path for pattern in CHECKPOINT_FILES for path in folder.glob(pattern)})
        if not any(path.suffix == ".safetensors" for path in files):
            raise CheckpointError(str(folder), "no *.safetensors file: write it with save_pretrained first")
        digest = content_digest((path.name, path.stat().st_size, _pieces(path)) for path in files)
    except NameRefusedError as error:
        raise CheckpointError(str(folder), str(error)) from None
    except OSError as error:
        raise CheckpointError(str(folder), f"cannot be read: {error}") from None
    return _announcement(version, "checkpoint", name, digest)


def describe_adapter(version: int, name: str, sha256: str) -> PolicyVersion:
    """The version whose policy is the booted model under the published adapter `name@version`."""
    return _announcement(version, "adapter", name, sha256)


async def announce(connection: Connection, keys: Keys, announcement: PolicyVersion) -> None:
    """Make it the newest version; announcing the same content again is a no-op.

    Raises `PolicyVersionError` when the version is not newer than the newest, `RedisUnavailableError`.
    """
    entry, payload = f"{announcement.version}-0", encode(announcement)

    async def add(redis: Redis) -> bool:
        try:
            await redis.xadd(keys.versions(), {"payload": payload}, id=entry)
        except ResponseError as error:
            if "equal or smaller" not in str(error):
                raise
            return False
        return True

    if await connection.call("publish a policy version", add):
        return
    found = await _read(connection, keys, entry, entry)
    if found and _content(found[0]) == _content(announcement):
        return
    newest = await _read(connection, keys, "+", "-")
    raise PolicyVersionError(announcement.version, newest[0].version if newest else None, taken=bool(found))


async def wait_for_version(
    connection: Connection, keys: Keys, version: int, workers: int | Literal["all"], timeout: float | None
) -> None:
    """Return once `workers` live workers (at least one for "all") serve `version` or a newer one.

    Raises `VersionTimeoutError`, which names those that do not and why, and `RedisUnavailableError`.
    """
    serving: dict[str, tuple[int, str]] = {}
    try:
        async with asyncio.timeout(timeout):
            while True:
                serving = await connection.call("read the workers", lambda redis: _serving(redis, keys))
                there = sum(served >= version for served, _ in serving.values())
                if there and there >= (len(serving) if workers == "all" else workers):
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        behind = {name: (served, problem) for name, (served, problem) in serving.items() if served < version}
        raise VersionTimeoutError(version, len(serving), behind, timeout or 0) from None


def _announcement(version: int, source: Literal["checkpoint", "adapter"], location: str, sha256: str) -> PolicyVersion:
    if type(version) is not int or not 1 <= version < 2**31:
        raise PolicyVersionError(version, None, taken=False)
    return PolicyVersion(version=version, source=source, location=location, sha256=sha256, published_at=time.time())


def _content(announcement: PolicyVersion) -> PolicyVersion:
    return announcement.model_copy(update={"published_at": 0.0})


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


async def _read(connection: Connection, keys: Keys, newest: str, oldest: str) -> list[PolicyVersion]:
    """At most one readable announcement, the newest in the range."""
    entries: Any = await connection.call(
        "read the versions", lambda redis: redis.xrevrange(keys.versions(), newest, oldest, count=1)
    )
    return list(_readable(fields.get(b"payload", b"") for _, fields in entries))


def _readable(payloads: Iterable[bytes]) -> Iterator[PolicyVersion]:
    for payload in payloads:
        try:
            yield decode(payload, PolicyVersion)
        except SchemaError:
            continue


async def _serving(redis: Redis, keys: Keys) -> dict[str, tuple[int, str]]:
    """Worker to the version that it serves and what its last swap was refused for."""
    prefix = len(keys.workers_pattern()) - 1
    found = {}
    for key in [key async for key in redis.scan_iter(match=keys.workers_pattern(), count=500)]:
        reply: Any = await redis.hmget(key, ["policy_version", "policy_error"])
        version, problem = reply
        if version is not None and version.isdigit() and len(version) <= 10:
            found[key.decode("utf-8", "backslashreplace")[prefix:]] = int(version), _text(problem)
    return found


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "backslashreplace")[:500]
