"""Write an adapter from Redis into a folder, chunk by chunk, after a check that all chunks are there."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import AdapterManifest, Keys, SchemaError, decode
from rollstream.schemas.weights.adapter_config import CONFIG_FILE, WEIGHTS_FILE

from ..errors import adapter_refused
from ..redis_io.connections import cancelled, retrying

_BATCH = 500
"""How many chunks' lengths are asked for at once."""


def opened(name: str, data: bytes, max_bytes: int) -> AdapterManifest:
    """Decode and check the manifest of `name`. Raises `DataError` (`adapter_refused`)."""
    try:
        manifest = decode(data, AdapterManifest)
    except SchemaError as error:
        raise adapter_refused(name, f"its manifest cannot be read: {error}") from None
    if manifest.name != name:
        raise adapter_refused(name, f"its manifest is that of {manifest.name!r}")
    if manifest.num_bytes > max_bytes:
        raise adapter_refused(name, f"{manifest.num_bytes} bytes exceed the worker's --max-adapter-bytes {max_bytes}")
    return manifest


async def check_chunks(redis: Redis, keys: Keys, manifest: AdapterManifest) -> None:
    """Raises `DataError` (`adapter_refused`) if a chunk is gone or too short, and `RedisError` as `retrying` does.

    It costs little compared to the chunks, so it may be called for each job that names the adapter.
    """
    for first in range(0, manifest.chunks, _BATCH):
        numbers = range(first, min(first + _BATCH, manifest.chunks))
        lengths = await retrying("look for an adapter", _lengths, redis, keys, manifest, numbers)
        for number, length in zip(numbers, lengths, strict=True):
            _check_length(manifest, number, length)


async def download(redis: Redis, keys: Keys, manifest: AdapterManifest, folder: Path) -> str:
    """Make `folder` and write the adapter into it. Returns the sha256 (hex) of what was written.

    Raises `DataError` (`adapter_refused`) for a chunk that is gone meanwhile, `RedisError` as `retrying` does, and
    `OSError` if the folder cannot be written.
    """
    await asyncio.to_thread(_begin, folder, manifest)
    digest = hashlib.sha256(manifest.config)
    for number in range(manifest.chunks):
        await asyncio.to_thread(_append, folder, await _chunk(redis, keys, manifest, number), digest)
    return digest.hexdigest()


async def _lengths(redis: Redis, keys: Keys, manifest: AdapterManifest, numbers: range) -> list[int]:
    async with redis.pipeline(transaction=False) as pipe:
        for number in numbers:
            pipe.strlen(keys.blob(manifest.sha256, number))
        return list(await pipe.execute())


async def _chunk(redis: Redis, keys: Keys, manifest: AdapterManifest, number: int) -> bytes:
    """Read a chunk: no more bytes than the manifest says, whatever the key holds."""
    if cancelled():
        raise asyncio.CancelledError
    last = _size(manifest, number) - 1
    chunk: Any = await retrying("read an adapter", redis.getrange, keys.blob(manifest.sha256, number), 0, last)
    _check_length(manifest, number, len(chunk))
    return bytes(chunk)


def _check_length(manifest: AdapterManifest, number: int, length: int) -> None:
    if length < _size(manifest, number):
        problem = "too short" if length else "gone"
        raise adapter_refused(manifest.name, f"chunk {number} of {manifest.chunks} is {problem}; publish it again")


def _size(manifest: AdapterManifest, number: int) -> int:
    return min(manifest.chunk_bytes, manifest.num_bytes - number * manifest.chunk_bytes)


def _begin(folder: Path, manifest: AdapterManifest) -> None:
    folder.mkdir()
    (folder / CONFIG_FILE).write_bytes(manifest.config)
    (folder / WEIGHTS_FILE).touch()


def _append(folder: Path, chunk: bytes, digest: Any) -> None:
    digest.update(chunk)
    with (folder / WEIGHTS_FILE).open("ab") as file:
        file.write(chunk)
