"""The one file of a version that came through the store: all tensors of its table, and where each of them lies.

It is read and written by calls, never mapped into memory: a write into a map ends the whole process if the disk is
full, or if somebody shortens the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from threading import Event

import numpy as np

from rollstream.schemas.weights.delta import Record
from rollstream.schemas.weights.finite import has_not_finite
from rollstream.schemas.weights.tensor_digest import TensorEntry

from ..errors import VersionRefusedError

WEIGHTS = "model.safetensors"
_PIECE = 8 * 2**20
_ALIGNED = 64
"""A multiple of every element's size. Libraries read tensors without a copy only where these begin at a multiple of
it."""
_FICLONE = 0x4004_9409
"""Linux' number for "share the blocks of another file until one of both is written"."""


class TensorFile:
    """An open file of `table`'s tensors. Threads may use it at once, for different tensors."""

    def __init__(self, *, descriptor: int, table: Sequence[TensorEntry]) -> None:
        self._descriptor = descriptor
        self.table = table
        self._header, self._starts = _layout(table)

    @property
    def num_bytes(self) -> int:
        """Size of the whole file."""
        return _num_bytes(self._header, self.table)

    def begin(self) -> None:
        """Write the header and reserve the disk space of all tensors. Raises `OSError`."""
        os.posix_fallocate(self._descriptor, 0, self.num_bytes)
        _write(self._descriptor, self._header, 0)

    def copy_from(self, base: Path, given_up: Event) -> None:
        """Begin as a copy of `base`, a file of the same layout. Raises `OSError`, `VersionRefusedError`."""
        source = os.open(base, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # most file systems cannot, and memory has no blocks
                fcntl.ioctl(self._descriptor, _FICLONE, source)
                return
            for offset in range(0, self.num_bytes, _PIECE):
                _go_on(given_up)
                _write(self._descriptor, _read(source, min(_PIECE, self.num_bytes - offset), offset), offset)
        finally:
            os.close(source)

    def apply(self, record: Record) -> None:
        """Overwrite what the record changes; it fits the table. Raises `OSError`."""
        item = self.table[record.tensor].item_bytes
        offset = self._starts[record.tensor] + record.start * item
        if record.places is None:
            _write(self._descriptor, record.values.data, offset)
            return
        part = np.frombuffer(bytearray(_read(self._descriptor, record.count * item, offset)), np.uint8)
        replace(record, start=0).apply(part)
        _write(self._descriptor, part.data, offset)

    def digest(self, tensor: int, given_up: Event) -> tuple[str, bool]:
        """The sha256 of a tensor's bytes, and whether all of its numbers are finite. Raises `OSError`."""
        entry, start = self.table[tensor], self._starts[tensor]
        digest, finite = hashlib.sha256(), True
        for offset in range(0, entry.num_bytes, _PIECE):
            _go_on(given_up)
            piece = _read(self._descriptor, min(_PIECE, entry.num_bytes - offset), start + offset)
            digest.update(piece)
            finite = finite and not has_not_finite(piece, entry.dtype)
        return digest.hexdigest(), finite


@contextmanager
def new_file(folder: Path, table: Sequence[TensorEntry]) -> Iterator[TensorFile]:
    """An empty file in `folder`, open for as long as this is entered. Raises `OSError`."""
    descriptor = os.open(folder / WEIGHTS, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield TensorFile(descriptor=descriptor, table=table)
    finally:
        os.close(descriptor)


def same_layout(one: Sequence[TensorEntry], other: Sequence[TensorEntry]) -> bool:
    """Whether the tensors lie at the same places in both files: all but their bytes is equal."""
    return [(entry.name, entry.dtype, entry.shape) for entry in one] == [
        (entry.name, entry.dtype, entry.shape) for entry in other
    ]


def file_bytes(table: Sequence[TensorEntry]) -> int:
    """The size of a file of these tensors."""
    return _num_bytes(_layout(table)[0], table)


def _layout(table: Sequence[TensorEntry]) -> tuple[bytes, Sequence[int]]:
    """The header of a safetensors file, and where in the file each tensor begins.

    Tensors of large elements come first, so that each begins at a multiple of its element's size.
    """
    order = sorted(range(len(table)), key=lambda at: (-table[at].item_bytes, table[at].name))
    ends = dict(zip(order, accumulate(table[at].num_bytes for at in order), strict=True))
    described: Mapping[str, object] = {
        table[at].name: {
            "dtype": table[at].dtype,
            "shape": table[at].shape,
            "data_offsets": (ends[at] - table[at].num_bytes, ends[at]),
        }
        for at in order
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **described}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    header = len(text).to_bytes(8, "little") + text
    return header, [len(header) + ends[at] - table[at].num_bytes for at in range(len(table))]


def _num_bytes(header: bytes, table: Sequence[TensorEntry]) -> int:
    return len(header) + sum(entry.num_bytes for entry in table)


def _read(descriptor: int, count: int, offset: int) -> bytes:
    found = os.pread(descriptor, count, offset)
    if len(found) == count:
        return found
    while len(found) < count:
        more = os.pread(descriptor, count - len(found), offset + len(found))
        if not more:
            raise VersionRefusedError("the worker's copy was shortened while it was read: leave --weights-cache alone")
        found += more
    return found


def _write(descriptor: int, values: bytes | memoryview, offset: int) -> None:
    left = memoryview(values)
    while left:
        count = os.pwrite(descriptor, left, offset)
        left, offset = left[count:], offset + count


def _go_on(given_up: Event) -> None:
    if given_up.is_set():
        raise VersionRefusedError("given up before it was prepared")
