"""Write an adapter to Redis chunk by chunk and the manifest last: an adapter that is found is complete, and fixed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import AdapterManifest, Keys, NameRefusedError, SchemaError, decode, encode
from rollstream.schemas.keys import POLICY_ADAPTER, check_adapter
from rollstream.schemas.times import ADAPTER_SLACK_S, ADAPTER_TTL_S

from ..progress import byte_bar
from ..redis_io.connection import Connection
from ..redis_io.large_commands import check_size, sized
from .adapter_files import CHUNK_BYTES, AdapterFiles, AdapterSource, read_adapter
from .adapter_tensors import Scaling
from .errors import AdapterConflictError, AdapterError
from .unserved import warn_of_unserved

_ROUNDS = 5
"""How often chunks that Redis lost meanwhile are sent again."""
_CONTENT = ("name", "sha256", "num_bytes", "chunk_bytes")
_COMMAND_BYTES = 512
"""At most so many bytes has a SET besides its value."""
_ADVICE = f"adapters travel in chunks of up to {CHUNK_BYTES} bytes: raise the limit"

log = logging.getLogger("rollstream")


async def publish_adapter(
    connection: Connection,
    keys: Keys,
    name: str,
    version: int,
    source: AdapterSource,
    scaling: Scaling,
    *,
    progress: bool,
) -> str:
    """See `AsyncClient.publish_adapter`."""
    full = adapter_name(name, version)
    files = await read_adapter(full, source, scaling)
    if files.incomplete:
        log.warning("adapter %s: every worker will refuse it: %s", full, files.incomplete)
    await upload(connection, keys, full, files, progress=progress)
    await warn_of_unserved(connection, keys, f"adapter {full}", "adapter")
    return full


def adapter_name(name: object, version: object) -> str:
    """`name@version`. Raises `NameRefusedError`, and `AdapterError` for a name that a policy version would take."""
    if type(version) is not int:
        raise NameRefusedError("adapter version", version, "an integer from 0 on")
    if isinstance(name, str) and "@" in name:
        raise NameRefusedError("adapter", name, f"leave out what begins with the @: version={version} is an argument")
    full = check_adapter(f"{name}@{version}" if isinstance(name, str) else name)
    if full.startswith(POLICY_ADAPTER):
        raise AdapterError(full, f"names that begin with {POLICY_ADAPTER!r} are those of policy versions")
    return full


async def upload(
    connection: Connection, keys: Keys, name: str, files: AdapterFiles, *, progress: bool
) -> AdapterManifest:
    """Publish the adapter; publishing the same content again renews it and restores chunks that are gone.

    When this returns, all chunks are there, even if Redis was restarted empty meanwhile. Holds one chunk in memory.
    Raises `AdapterConflictError` when the name has other content, `AdapterError` for files that change meanwhile and
    for chunks that Redis loses again and again, `RedisUnavailableError`.
    """
    manifest = AdapterManifest(
        name=name,
        sha256=files.sha256,
        config=files.config,
        num_bytes=files.num_bytes,
        chunk_bytes=CHUNK_BYTES,
        published_at=time.time(),
    )
    chunk_bytes = min(CHUNK_BYTES, manifest.num_bytes)
    await check_size(connection, "publish an adapter", chunk_bytes, chunk_bytes + _COMMAND_BYTES, _ADVICE)
    key = keys.adapter(name)
    there: Any = await connection.call("read a manifest", lambda redis: redis.get(key))
    if there is not None:
        manifest = _same(name, manifest, there)
    missing: Sequence[int] = range(manifest.chunks)
    for _ in range(_ROUNDS):
        with byte_bar(name, files.num_bytes, shown=progress) as advanced:
            for number in missing:
                chunk = await asyncio.to_thread(files.chunk, number)
                keep = _keeping(keys.blob(manifest.sha256, number), chunk)
                send = sized(connection, "publish an adapter", keep, len(chunk), _ADVICE)
                await connection.call("publish an adapter", send)
                advanced(number * CHUNK_BYTES + len(chunk))
        manifest = await _publish_manifest(connection, key, manifest)
        missing = await connection.call("look for an adapter", partial(_missing, keys=keys, manifest=manifest))
        if not missing:
            return manifest
    problem = f"{len(missing)} of its {manifest.chunks} chunks were gone once it was sent, {_ROUNDS} times"
    raise AdapterError(name, f"{problem}: is Redis flushed or restarted, or does it evict keys (maxmemory-policy)?")


async def renew(connection: Connection, keys: Keys, name: str, sha256: str) -> bool:
    """Let a published adapter stay for another day. Returns whether all of it is there."""
    data: Any = await connection.call(
        "read a manifest", lambda redis: redis.getex(keys.adapter(name), ex=ADAPTER_TTL_S)
    )
    try:
        manifest = decode(data or b"", AdapterManifest)
    except SchemaError:
        return False

    async def keep(redis: Redis) -> int:
        async with redis.pipeline(transaction=False) as pipe:
            for number in range(manifest.chunks):
                pipe.expire(keys.blob(sha256, number), ADAPTER_TTL_S + ADAPTER_SLACK_S)
            return sum(await pipe.execute())

    return manifest.sha256 == sha256 and await connection.call("publish an adapter", keep) == manifest.chunks


async def _publish_manifest(connection: Connection, key: str, manifest: AdapterManifest) -> AdapterManifest:
    """Write the manifest, unless one is there already; renew and return the one that is there."""
    await connection.call(
        "publish an adapter", lambda redis: redis.set(key, encode(manifest), nx=True, ex=ADAPTER_TTL_S)
    )
    there: Any = await connection.call("read a manifest", lambda redis: redis.getex(key, ex=ADAPTER_TTL_S))
    return _same(manifest.name, manifest, there)


async def _missing(redis: Redis, *, keys: Keys, manifest: AdapterManifest) -> list[int]:
    """Numbers of the chunks that are missing or incomplete.

    Called after the manifest was written, so that chunks found here were in Redis together with the manifest.
    """
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(manifest.chunks):
            pipe.strlen(keys.blob(manifest.sha256, number))
        lengths = await pipe.execute()
    size, total = manifest.chunk_bytes, manifest.num_bytes
    return [number for number, length in enumerate(lengths) if length != min(size, total - number * size)]


def _keeping(key: str, chunk: bytes) -> Any:
    """A command, safe to send twice, that keeps a chunk. A chunk that is there already is renewed, not sent again."""

    async def send(redis: Redis) -> None:
        length: Any = await redis.strlen(key)
        if length != len(chunk) or not await redis.expire(key, ADAPTER_TTL_S + ADAPTER_SLACK_S):
            await redis.set(key, chunk, ex=ADAPTER_TTL_S + ADAPTER_SLACK_S)

    return send


def _same(name: str, manifest: AdapterManifest, data: bytes | None) -> AdapterManifest:
    """The manifest in `data`, if it is for the same content. Raises `AdapterError`, `AdapterConflictError`."""
    try:
        found = decode(data or b"", AdapterManifest)
    except SchemaError as error:
        raise AdapterError(name, f"what Redis holds under its name is no manifest: {error}") from None
    if any(getattr(found, field) != getattr(manifest, field) for field in _CONTENT):
        raise AdapterConflictError(name)
    return found
