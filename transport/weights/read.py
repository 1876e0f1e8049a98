"""Manifests and chunks, verified: what a store holds is hostile until it has proven to be what was announced."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection

from rollstream.schemas import SchemaError, WeightsManifest, decode
from rollstream.schemas.weights.compression import Compression, decompressed
from rollstream.schemas.weights.errors import WeightsFormatError
from rollstream.schemas.wire.sizes.limits import MAX_BYTES
from rollstream.schemas.wire.weights import MAX_CHAIN, Chunk

from .errors import StoreProblem, WeightStoreError
from .store import WeightStore


async def read_manifest(store: WeightStore, name: str) -> WeightsManifest:
    """The manifest of this name. Raises `WeightStoreError`, also for one that is of another version or content."""
    data = await store.get(name, MAX_BYTES)
    try:
        manifest = await asyncio.to_thread(decode, data, WeightsManifest)
    except SchemaError as error:
        raise _broken(store, name, str(error)) from None
    if manifest.name != name:
        raise _broken(store, name, f"it is the manifest of {manifest.name}")
    return manifest


async def read_chain(store: WeightStore, name: str, have: Collection[str] = ()) -> list[WeightsManifest]:
    """The manifests whose chunks give the version, in the order in which they are applied.

    The first is an anchor, or stands on a version whose digest is in `have`. Empty if the version itself is in `have`.
    Raises `WeightStoreError`, also for manifests that do not fit together.
    """
    found: list[WeightsManifest] = []
    wanted: str | None = name
    while wanted is not None:
        manifest = await read_manifest(store, wanted)
        if found and (problem := _misfit(manifest, found[-1])):
            raise _broken(store, found[-1].name, problem)
        if manifest.sha256 in have:
            break
        found.append(manifest)
        if len(found) > MAX_CHAIN + 1:
            raise _broken(store, name, f"more than {MAX_CHAIN} deltas stand on its anchor")
        wanted = None if manifest.base_sha256 in have else manifest.base_name
    return found[::-1]


async def read_chunk(store: WeightStore, chunk: Chunk, compression: Compression) -> bytes:
    """A chunk's records, without compression. Raises `WeightStoreError`, also for other bytes than were announced."""
    data = await store.get(chunk.sha256, chunk.num_bytes)
    return await asyncio.to_thread(_verified, store, chunk, compression, data)


def _verified(store: WeightStore, chunk: Chunk, compression: Compression, data: bytes) -> bytes:
    if len(data) != chunk.num_bytes or hashlib.sha256(data).hexdigest() != chunk.sha256:
        raise _broken(store, chunk.sha256, "its bytes are not those that were announced")
    try:
        return decompressed(data, compression, chunk.plain_bytes)
    except WeightsFormatError as error:
        raise _broken(store, chunk.sha256, str(error)) from None


def _misfit(base: WeightsManifest, delta: WeightsManifest) -> str | None:
    """Why `delta` cannot stand on `base`; None if it can."""
    if base.sha256 != delta.base_sha256:
        return f"its base {base.name} has other content"
    if base.chain != delta.chain - 1 and not _was_written_again(base):
        return f"it is number {delta.chain} of its chain, and its base {base.name} number {base.chain}"
    if _layout(base) != _layout(delta):
        return f"it has other tensors than its base {base.name}"
    return None


def _was_written_again(base: WeightsManifest) -> bool:
    """A trainer that was started again may have written an anchor under the name of a delta, with the same tensors."""
    return base.base is None


def _layout(manifest: WeightsManifest) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(one.name, one.dtype, one.shape) for one in manifest.tensors]


def _broken(store: WeightStore, name: str, problem: str) -> WeightStoreError:
    return WeightStoreError(f"read {name}", store.where, problem, StoreProblem.BROKEN)
