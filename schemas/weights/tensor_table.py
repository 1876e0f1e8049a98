"""The table of a version's tensors as bytes: a mixture of experts has tens of thousands, more than a message may hold.

Four bytes `RST1`, the count, and for each tensor, by name: length and text of the name, length and text of the dtype,
number of dimensions, each dimension in 8 bytes, and the 32 bytes of its sha256. All numbers are little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from itertools import pairwise

from .errors import WeightsFormatError
from .tensor_digest import ITEM_BYTES, TensorEntry

MAX_TABLE_BYTES = 32 * 2**20
MAX_TENSORS = 2**18
MAX_NAME = 500
"""Characters."""
MAX_DIMENSIONS = 8
MAX_TENSOR_BYTES = 2**40
MAX_ALL_BYTES = 2**44

_WHAT = "table of tensors"
_MAGIC = b"RST1"
_COUNT = struct.Struct("<I")
_NAME = struct.Struct("<H")
_SHA_BYTES = 32


def pack_table(entries: Iterable[TensorEntry]) -> bytes:
    """The table's bytes. Raises `WeightsFormatError` for what `unpack_table` would not take."""
    found = sorted(entries, key=lambda one: one.name)
    parts = [_MAGIC, _COUNT.pack(len(found))]
    for one in found:
        name, dtype = one.name.encode("utf-8", "surrogatepass"), one.dtype.encode("ascii", "replace")
        if problem := entry_problem(one.name, one.dtype, one.shape):
            raise WeightsFormatError(_WHAT, problem)
        sides = struct.pack(f"<{len(one.shape)}Q", *one.shape)
        parts += [_NAME.pack(len(name)), name, bytes([len(dtype)]), dtype, bytes([len(one.shape)]), sides]
        parts.append(bytes.fromhex(one.sha256))
    packed = b"".join(parts)
    unpack_table(packed)
    return packed


def unpack_table(data: bytes) -> tuple[TensorEntry, ...]:
    """The tensors, by name. Raises `WeightsFormatError` for anything but a table within the bounds."""
    if len(data) > MAX_TABLE_BYTES:
        raise WeightsFormatError(_WHAT, f"{len(data)} bytes, at most {MAX_TABLE_BYTES} are read")
    reader = _Reader(data)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise WeightsFormatError(_WHAT, "it does not begin as one")
    (count,) = _COUNT.unpack(reader.take(_COUNT.size))
    if not 1 <= count <= MAX_TENSORS:
        raise WeightsFormatError(_WHAT, f"{count} tensors, 1 to {MAX_TENSORS} are read")
    entries = tuple(reader.entry() for _ in range(count))
    if reader.left:
        raise WeightsFormatError(_WHAT, f"{reader.left} bytes after its end")
    if any(one.name >= after.name for one, after in pairwise(entries)):
        raise WeightsFormatError(_WHAT, "its names are not in order, or one is there twice")
    if sum(one.num_bytes for one in entries) > MAX_ALL_BYTES:
        raise WeightsFormatError(_WHAT, f"tensors of more than {MAX_ALL_BYTES} bytes together")
    return entries


def entry_problem(name: str, dtype: str, shape: tuple[int, ...]) -> str | None:
    """Why a table cannot have such a tensor; None if it can."""
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        return f"a name has 1 to {MAX_NAME} printable characters"
    if dtype not in ITEM_BYTES:
        return f"a dtype is one of {', '.join(ITEM_BYTES)}"
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) * ITEM_BYTES[dtype] > MAX_TENSOR_BYTES:
        return f"a tensor has at most {MAX_DIMENSIONS} dimensions and {MAX_TENSOR_BYTES} bytes"
    return None


class _Reader:
    """Takes bytes from the front; only it moves its position."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._position

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise WeightsFormatError(_WHAT, "truncated")
        begin, self._position = self._position, self._position + count
        return self._data[begin : self._position]

    def entry(self) -> TensorEntry:
        name = self._text(_NAME.unpack(self.take(_NAME.size))[0])
        dtype = self._text(self.take(1)[0])
        dimensions = self.take(1)[0]
        if dimensions > MAX_DIMENSIONS:
            raise WeightsFormatError(_WHAT, f"a tensor of {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))
        if problem := entry_problem(name, dtype, shape):
            raise WeightsFormatError(_WHAT, problem)
        return TensorEntry(name, dtype, shape, self.take(_SHA_BYTES).hex())

    def _text(self, count: int) -> str:
        try:
            return self.take(count).decode()
        except UnicodeDecodeError:
            raise WeightsFormatError(_WHAT, "a name is no UTF-8") from None
