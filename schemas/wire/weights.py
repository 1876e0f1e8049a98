"""A version in the weight store: which tensors it has, and the chunks that bring them, whole or as a delta."""

from __future__ import annotations

import struct
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from ..weights.compression import Compression
from ..weights.errors import WeightsFormatError
from ..weights.tensor_digest import TensorEntry, tensors_digest
from ..weights.tensor_table import MAX_ALL_BYTES, MAX_TABLE_BYTES, unpack_table
from .fields import Index
from .messages import Message
from .policies import Sha256

MAX_CHUNK_BYTES = 64 * 2**20
"""The largest chunk, as it is stored and as it is without compression."""
MAX_CONFIG_BYTES = 64 * 1024
MAX_CHUNKS = 2**16
MAX_CHAIN = 1000
"""Most deltas that stand on one anchor."""

_CHUNK = struct.Struct("<32sII")


class Chunk(NamedTuple):
    """Some of a version's records, stored under the digest of what is stored."""

    sha256: str
    num_bytes: int
    """As it is stored."""
    plain_bytes: int
    """Without compression."""


def pack_chunks(chunks: list[Chunk]) -> bytes:
    """As `WeightsManifest.packed_chunks` has them."""
    return b"".join(_CHUNK.pack(bytes.fromhex(one.sha256), one.num_bytes, one.plain_bytes) for one in chunks)


def manifest_name(version: int, sha256: str) -> str:
    """A manifest's name in the store. It tells what the version is, however it is brought: two manifests of one name
    give the same tensors."""
    return f"{version}-{sha256[:16]}"


class WeightsManifest(Message):
    """One version in the weight store. It is written after its chunks, and what stands on its base after the base."""

    kind: Literal["weights"] = "weights"
    version: Annotated[Index, Field(ge=1)]
    sha256: Sha256
    """`tensors_digest` of the version's tensors, and of `config`."""
    table: Annotated[bytes, Field(max_length=MAX_TABLE_BYTES)]
    """All tensors of the version, changed or not, see `schemas.weights.tensor_table`."""
    packed_chunks: Annotated[bytes, Field(max_length=MAX_CHUNKS * _CHUNK.size)]
    """See `chunks`."""
    compression: Compression = "none"
    base: Annotated[Index, Field(ge=1)] | None = None
    """The version that the chunks change; None for an anchor, whose chunks bring every byte."""
    base_sha256: Sha256 | None = None
    """`tensors_digest` of the base; None for an anchor."""
    chain: Annotated[Index, Field(le=MAX_CHAIN)] = 0
    """How many deltas lead from the anchor to this version; 0 for an anchor."""
    changed: Annotated[int, Field(ge=0, lt=2**44)] = 0
    """How many elements a delta changes; for people."""
    config: Annotated[bytes, Field(max_length=MAX_CONFIG_BYTES)] = b""
    """An adapter's `adapter_config.json`, byte for byte; empty for a checkpoint."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.base is None, self.base_sha256 is None) != ((self.chain == 0),) * 2:
            raise ValueError("base, base_sha256 and chain: an anchor has none of them, a delta all three")
        if self.base is not None and self.base >= self.version:
            raise ValueError(f"version {self.version} stands on version {self.base}, which must be older")
        for chunk in self.chunks:
            if not (1 <= chunk.num_bytes <= MAX_CHUNK_BYTES and 1 <= chunk.plain_bytes <= MAX_CHUNK_BYTES):
                raise ValueError(f"a chunk of {chunk.num_bytes}, {chunk.plain_bytes} bytes, at most {MAX_CHUNK_BYTES}")
        try:
            entries = self.tensors
        except WeightsFormatError as error:
            raise ValueError(str(error)) from None
        if self.plain_bytes > MAX_ALL_BYTES:
            raise ValueError(f"chunks of {self.plain_bytes} bytes")
        if tensors_digest(entries, self.config) != self.sha256:
            raise ValueError("sha256 is not the digest of its tensors and its config")
        return self

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """The chunks, which may be applied in any order. Raises `ValueError` for bytes that are none."""
        if len(self.packed_chunks) % _CHUNK.size:
            raise ValueError(f"packed_chunks has {len(self.packed_chunks)} bytes, no multiple of {_CHUNK.size}")
        return tuple(Chunk(sha.hex(), size, plain) for sha, size, plain in _CHUNK.iter_unpack(self.packed_chunks))

    @cached_property
    def tensors(self) -> tuple[TensorEntry, ...]:
        """All tensors of the version, by name."""
        return unpack_table(self.table)

    @property
    def name(self) -> str:
        """Its name in the store."""
        return manifest_name(self.version, self.sha256)

    @property
    def base_name(self) -> str | None:
        """The name of its base's manifest; None for an anchor."""
        return None if self.base is None or self.base_sha256 is None else manifest_name(self.base, self.base_sha256)

    @property
    def num_bytes(self) -> int:
        """Bytes of all chunks, as they are stored."""
        return sum(chunk.num_bytes for chunk in self.chunks)

    @property
    def plain_bytes(self) -> int:
        """Bytes of all chunks without compression."""
        return sum(chunk.plain_bytes for chunk in self.chunks)
