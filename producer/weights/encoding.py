"""What a version's tensors are beside those of its base, and the chunks that bring them. Pure; for threads."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from rollstream.schemas.weights.compression import Compression, compressed
from rollstream.schemas.weights.delta import Range, changed_records, count_changed, whole_records
from rollstream.schemas.weights.tensor_digest import TensorEntry, bytes_digest, tensors_digest
from rollstream.schemas.wire.weights import Chunk

from .tensor_values import TensorValues

_THREADS = 4

Tensors = Mapping[str, TensorValues]
Digests = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A version's tensors, without their values."""

    entries: tuple[TensorEntry, ...]
    """By name."""
    sha256: str
    changed: Mapping[str, int]
    """How many elements of each tensor differ from the base; empty without one."""
    config: bytes = b""
    """An adapter's `adapter_config.json`; empty for a checkpoint."""

    @property
    def full_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(one.num_bytes for one in self.entries)

    @property
    def elements(self) -> int:
        """Elements of all tensors."""
        return sum(one.num_elements for one in self.entries)

    @property
    def delta_bytes(self) -> int:
        """About how many bytes a delta has; not more than `full_bytes`."""
        return sum(_delta_bytes(one, self.changed.get(one.name, 0)) for one in self.entries)


def _delta_bytes(entry: TensorEntry, changed: int) -> int:
    """About a byte tells where an element changed, or a bit for each element, see `schemas.weights.delta`."""
    places = min(changed, entry.num_elements // 8 + 1)
    return min(entry.num_bytes, places + changed * entry.item_bytes)


def same_layout(tensors: Tensors, others: Tensors) -> bool:
    """Whether the one can be a delta on the other: the same names, dtypes and shapes."""
    return tensors.keys() == others.keys() and all(
        (one.dtype, one.shape) == (others[name].dtype, others[name].shape) for name, one in tensors.items()
    )


def described(tensors: Tensors, base: Tensors | None, digests: Digests, config: bytes = b"") -> Described:
    """Compare with the base, of which `digests` has the tensors' sha256, and hash what differs."""
    with ThreadPoolExecutor(_THREADS) as pool:  # comparing and hashing let other threads run
        found = list(pool.map(partial(_entry, tensors, base, digests), sorted(tensors)))
    entries = tuple(entry for entry, _ in found)
    changed = {entry.name: count for entry, count in found if count} if base is not None else {}
    return Described(entries=entries, sha256=tensors_digest(entries, config), changed=changed, config=config)


def _entry(tensors: Tensors, base: Tensors | None, digests: Digests, name: str) -> tuple[TensorEntry, int]:
    dtype, shape, values = tensors[name]
    entry = TensorEntry(name, dtype, shape, digests.get(name, ""))
    count = entry.num_elements if base is None else count_changed(values, base[name].values, entry.item_bytes)
    if count or not entry.sha256:
        entry = entry._replace(sha256=bytes_digest(values.data))
    return entry, count


def encoded(what: Described, tensors: Tensors, base: Tensors | None, chunk_bytes: int) -> Iterator[bytes]:
    """The chunks without compression, always the same for the same tensors. Without a base: all bytes."""
    parts: list[bytes | memoryview] = []
    size = 0
    for one in _records(what, tensors, base):
        if parts and size + one.num_bytes > chunk_bytes:
            yield b"".join(parts)
            parts, size = [], 0
        parts += one.parts
        size += one.num_bytes
    if parts:
        yield b"".join(parts)


def stored_chunk(plain: bytes, compression: Compression) -> tuple[Chunk, bytes]:
    """A chunk as it is stored, with its bytes there."""
    data = compressed(plain, compression)
    return Chunk(hashlib.sha256(data).hexdigest(), len(data), len(plain)), data


def _records(what: Described, tensors: Tensors, base: Tensors | None) -> Iterator[Range]:
    if base is None:
        for place, entry in enumerate(what.entries):
            yield from whole_records(place, tensors[entry.name].values, entry.item_bytes)
    else:
        yield from _changed(what, tensors, base)


def _changed(what: Described, tensors: Tensors, base: Tensors) -> Iterator[Range]:
    """In the order of the table; a few tensors ahead are being compared in threads."""
    pool = ThreadPoolExecutor(_THREADS)
    ahead: deque[Future[list[Range]]] = deque()

    def changes(place: int, entry: TensorEntry) -> list[Range]:
        values, before = tensors[entry.name].values, base[entry.name].values
        return list(changed_records(place, values, before, entry.item_bytes))

    try:
        for place, entry in enumerate(what.entries):
            if entry.name in what.changed:
                ahead.append(pool.submit(changes, place, entry))
            if len(ahead) > _THREADS:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
