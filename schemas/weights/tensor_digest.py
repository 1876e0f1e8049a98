"""The digest over a version's tensors: a trainer hashes only those again that a delta changed.

It says what the tensors are, not how they came: a folder, a chain of deltas and an anchor with the same tensors have
the same digest. It is another one than `content_digest`, which is over the files of a folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of one element, by dtype in safetensors' words. Dtypes smaller than a byte are not among them."""


class TensorEntry(NamedTuple):
    """One tensor of a version, without its values."""

    name: str
    dtype: str
    """A key of `ITEM_BYTES`."""
    shape: tuple[int, ...]
    sha256: str
    """Digest of its bytes: little-endian, row by row, as safetensors keeps them."""

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return ITEM_BYTES[self.dtype]

    @property
    def num_elements(self) -> int:
        """1 for a scalar, 0 if a side is 0."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of all elements."""
        return self.num_elements * self.item_bytes


def bytes_digest(values: bytes | memoryview) -> str:
    """The `sha256` of an entry, for the bytes of its tensor."""
    return hashlib.sha256(values).hexdigest()


def tensors_digest(entries: Iterable[TensorEntry], config: bytes = b"") -> str:
    """sha256 over name, dtype, shape and sha256 of each tensor, by name; then over an adapter's config."""
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda one: one.name):
        sides = ",".join(map(str, entry.shape))
        digest.update(f"{entry.name}\0{entry.dtype}\0{sides}\0{entry.sha256}\n".encode())
    if config:
        digest.update(b"\0" + config)  # no tensor's name begins so
    return digest.hexdigest()
