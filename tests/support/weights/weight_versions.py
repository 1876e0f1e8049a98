"""Versions in a weight store, written as a trainer does, and the tensors of a model's folder as bytes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import PolicyVersion, WeightsManifest, encode
from rollstream.schemas.weights.compression import Compression, compressed
from rollstream.schemas.weights.delta import changed_records, whole_records
from rollstream.schemas.weights.tensor_digest import TensorEntry, bytes_digest, tensors_digest
from rollstream.schemas.weights.tensor_table import pack_table
from rollstream.schemas.wire.weights import Chunk, pack_chunks
from rollstream.transport.weights import WeightStore
from rollstream.worker.checkpoints.supply import Prepared, Wanted
from tests.support.faults import Queue

CHUNK_BYTES = 20_000
"""So that even a tiny model has several."""


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    values: NDArray[np.uint8]

    def entry(self, name: str) -> TensorEntry:
        return TensorEntry(name, self.dtype, self.shape, bytes_digest(self.values.tobytes()))


Tensors = Mapping[str, Tensor]


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model's only file, by name."""
    data = (folder / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    found = {}
    for name, told in sorted(header.items()):
        start, end = (begin + at for at in told["data_offsets"])
        found[name] = Tensor(told["dtype"], tuple(told["shape"]), np.frombuffer(data[start:end], np.uint8))
    return found


def trained(tensors: Tensors, step: int, share: float = 0.05) -> dict[str, Tensor]:
    """The tensors after a step that changes the lowest bits of a share of the elements of every second tensor."""
    generator = np.random.default_rng(step)
    changed = dict(tensors)
    for name in sorted(tensors)[step % 2 :: 2]:
        one = tensors[name]
        values = one.values.copy()
        item = one.entry(name).item_bytes
        places = generator.choice(values.size // item, max(1, int(share * values.size // item)), replace=False)
        values[places * item] ^= 1
        changed[name] = Tensor(one.dtype, one.shape, values)
    return changed


async def write(
    store: WeightStore,
    version: int,
    tensors: Tensors,
    base: tuple[WeightsManifest, Tensors] | None = None,
    compression: Compression = "none",
    **changes: Any,
) -> WeightsManifest:
    """Write a version, as an anchor or standing on `base`; `changes` are to the manifest's fields."""
    below: dict[str, Any] = {}
    if base is not None:
        below = {"base": base[0].version, "base_sha256": base[0].sha256, "chain": base[0].chain + 1}
    chunks = []
    for plain in _chunks(_records(tensors, None if base is None else base[1])):
        data = compressed(plain, compression)
        chunks.append(Chunk(hashlib.sha256(data).hexdigest(), len(data), len(plain)))
        await store.put(chunks[-1].sha256, data)
    entries = [one.entry(name) for name, one in tensors.items()]
    fields: dict[str, Any] = {
        "version": version,
        "sha256": tensors_digest(entries),
        "table": pack_table(entries),
        "packed_chunks": pack_chunks(chunks),
        "compression": compression,
        **below,
        **changes,
    }
    manifest = WeightsManifest(**fields)
    await store.put(manifest.name, encode(manifest))
    return manifest


def wanted(manifest: WeightsManifest, **changes: Any) -> Wanted:
    """What a worker asks its supply for."""
    asked = Wanted(
        version=manifest.version, location=manifest.name, sha256=manifest.sha256, transport="store", base=manifest.base
    )
    return replace(asked, **changes)


def held(prepared: Prepared) -> dict[str, tuple[str, bytes]]:
    """Dtypes and bytes that a worker would load."""
    return {name: (one.dtype, one.values.tobytes()) for name, one in tensors_of(prepared.folder).items()}


def said(tensors: Tensors) -> dict[str, tuple[str, bytes]]:
    """Dtypes and bytes that were published."""
    return {name: (one.dtype, one.values.tobytes()) for name, one in tensors.items()}


async def chain(weights: WeightStore, boot: Tensors, length: int) -> list[tuple[WeightsManifest, Tensors]]:
    """An anchor, version 1, and deltas."""
    first: Tensors = trained(boot, 1)
    versions = [(await write(weights, 1, first), first)]
    for step in range(2, length + 2):
        tensors = trained(versions[-1][1], step)
        versions.append((await write(weights, step, tensors, versions[-1]), tensors))
    return versions


def announce_weights(queue: Queue, manifest: WeightsManifest, version: int | None = None) -> None:
    """As the last act of a publish; `version`: where it is not the manifest's."""
    number = manifest.version if version is None else version
    message = PolicyVersion(
        version=number, source="checkpoint", location=manifest.name, sha256=manifest.sha256, published_at=time.time(),
        transport="store", base=manifest.base, requires=("store",),
    )  # fmt: skip
    queue.redis.xadd(queue.keys.versions(), {"payload": encode(message)}, id=f"{number}-0")


def _records(tensors: Tensors, before: Tensors | None) -> Iterator[bytes]:
    for at, name in enumerate(sorted(tensors)):
        one = tensors[name]
        item = one.entry(name).item_bytes
        if before is None:
            yield from (found.record for found in whole_records(at, one.values, item))
        else:
            yield from (found.record for found in changed_records(at, one.values, before[name].values, item))


def _chunks(records: Iterator[bytes]) -> Iterator[bytes]:
    chunk = b""
    for record in records:
        if chunk and len(chunk) + len(record) > CHUNK_BYTES:
            yield chunk
            chunk = b""
        chunk += record
    if chunk:
        yield chunk
