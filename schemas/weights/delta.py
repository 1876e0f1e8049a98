"""Changed tensors as records: per range of a tensor either all its bytes, or where elements changed and to which value.

A record overwrites, so applying it twice is harmless. Elements are compared and kept as bits: -0.0, NaN and what they
carry survive. A chunk is a sequence of whole records, so each chunk can be applied by itself, in any order.

A record is a header and a body. The body of a whole range is its bytes. Otherwise it is the places of the changed
elements and then their values, all first bytes, all second bytes, and so on: high bytes repeat, and zstd sees that.
Places are gaps, the number of unchanged elements before each changed one, in one or two bytes; the largest number means
"that many, and the gap goes on". Or they are one bit for each element. Whichever is shortest is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import WeightsFormatError
from .tensor_digest import TensorEntry

MAX_RANGE_BYTES = 8 * 2**20
"""The largest range of one record that a reader takes, in bytes of the tensor: what it allocates follows from it."""
RANGE_BYTES = 2**19
"""The range that is written: it stays in a processor's cache while it is compared."""
MIN_CHUNK_BYTES = 2 * RANGE_BYTES

_WHAT = "records of a delta"
_WHOLE, _GAPS_8, _GAPS_16, _BITS = range(4)
_HEADER = struct.Struct("<IBxxxQIII")
"""Tensor's place in the table, coding, first element, elements of the range, changed ones, bytes of the places."""
_GAP_BYTES = {_GAPS_8: 1, _GAPS_16: 2}

Array = NDArray[Any]


class Range(NamedTuple):
    """A run of changed elements of one tensor, as it is written. Its parts may be the tensor's own memory."""

    parts: tuple[bytes | memoryview, ...]
    changed: int

    @property
    def record(self) -> bytes:
        """The parts in one."""
        return b"".join(self.parts)

    @property
    def num_bytes(self) -> int:
        """Bytes of the record."""
        return sum(map(len, self.parts))


def elements(values: Array, item_bytes: int) -> Array:
    """A tensor's bytes (uint8, contiguous) as unsigned numbers of one element each."""
    return values.view(f"<u{item_bytes}") if values.size else np.zeros(0, f"<u{item_bytes}")


def whole_records(tensor: int, values: Array, item_bytes: int) -> Iterator[Range]:
    """Records with all bytes of a tensor, the one at `tensor` in the table."""
    new = elements(values, item_bytes)
    for start in range(0, new.size, step := RANGE_BYTES // item_bytes):
        part = new[start : start + step]
        yield _whole(tensor, start, part, part.size)


def changed_records(tensor: int, values: Array, before: Array, item_bytes: int) -> Iterator[Range]:
    """Records of the ranges in which `values` differs from `before`, bit for bit."""
    new, old = elements(values, item_bytes), elements(before, item_bytes)
    for start in range(0, new.size, step := RANGE_BYTES // item_bytes):
        part = new[start : start + step]
        places = np.flatnonzero(part != old[start : start + step])
        if places.size:
            yield _record(tensor, start, part, places)


def count_changed(values: Array, before: Array, item_bytes: int) -> int:
    """How many elements differ."""
    new, old = elements(values, item_bytes), elements(before, item_bytes)
    step = RANGE_BYTES // item_bytes
    starts = range(0, new.size, step)
    return sum(int(np.count_nonzero(new[at : at + step] != old[at : at + step])) for at in starts)


def _record(tensor: int, start: int, part: Array, places: Array) -> Range:
    coding, written = _places(places, part.size)
    changed = places.size
    if len(written) + changed * part.itemsize >= part.nbytes:
        return _whole(tensor, start, part, changed)
    planes = part[places].view(np.uint8).reshape(changed, part.itemsize).T.tobytes()
    header = _HEADER.pack(tensor, coding, start, part.size, changed, len(written))
    return Range((header, written, planes), changed)


def _whole(tensor: int, start: int, part: Array, changed: int) -> Range:
    header = _HEADER.pack(tensor, _WHOLE, start, part.size, part.size, 0)
    return Range((header, part.view(np.uint8).data), changed)


def _places(places: Array, size: int) -> tuple[int, bytes]:
    """The shortest coding of increasing places below `size`."""
    gaps = np.diff(places, prepend=-1) - 1
    lengths = {
        _GAPS_8: gaps.size + int((gaps // 0xFF).sum()),
        _GAPS_16: 2 * (gaps.size + int((gaps // 0xFFFF).sum())),
        _BITS: -(-size // 8),
    }
    coding = min(lengths, key=lambda one: lengths[one])
    if coding == _BITS:
        bits = np.zeros(size, bool)
        bits[places] = True
        return coding, np.packbits(bits, bitorder="little").tobytes()
    dtype = np.dtype(f"<u{_GAP_BYTES[coding]}")
    goes_on = int(np.iinfo(dtype).max)
    ends = np.cumsum(gaps // goes_on + 1) - 1
    written = np.full(int(ends[-1]) + 1, goes_on, dtype)
    written[ends] = gaps % goes_on
    return coding, written.tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record that was read and checked against the table: applying it stays within its tensor."""

    tensor: int
    """The tensor's place in the table."""
    start: int
    """Its first element."""
    count: int
    """How many elements the range has."""
    places: Array | None
    """Which of them change, increasing; None: all."""
    values: Array
    """uint8, the new elements' bytes."""

    def apply(self, target: Array) -> None:
        """Overwrite in `target`: the whole tensor's bytes, uint8, contiguous and writable."""
        count = self.count if self.places is None else self.places.size
        item_bytes = self.values.size // count
        part = elements(target, item_bytes)[self.start : self.start + self.count]
        new = elements(self.values, item_bytes)
        if self.places is None:
            part[:] = new
        else:
            part[self.places] = new


def read_records(chunk: bytes, table: Sequence[TensorEntry]) -> Iterator[Record]:
    """The records of a chunk. Raises `WeightsFormatError` at the first that does not fit the table.

    Memory follows from the chunk's size and `MAX_RANGE_BYTES`, whatever the numbers in it say.
    """
    position, view = 0, memoryview(chunk)
    while position < len(view):
        if len(view) - position < _HEADER.size:
            raise _broken("truncated")
        tensor, coding, start, count, changed, place_bytes = _HEADER.unpack_from(view, position)
        position += _HEADER.size
        if tensor >= len(table):
            raise _broken(f"tensor {tensor} of {len(table)}")
        entry = table[tensor]
        _check(entry, coding, start, count, changed, place_bytes)
        end = position + place_bytes + changed * entry.item_bytes
        if end > len(view):
            raise _broken("truncated")
        places = _places_of(view[position : position + place_bytes], coding, count, changed)
        values = np.frombuffer(view[position + place_bytes : end], np.uint8)
        if places is not None:
            values = np.ascontiguousarray(values.reshape(entry.item_bytes, changed).T).reshape(-1)
        yield Record(tensor=tensor, start=start, count=count, places=places, values=values)
        position = end


def _check(entry: TensorEntry, coding: int, start: int, count: int, changed: int, place_bytes: int) -> None:
    if count * entry.item_bytes > MAX_RANGE_BYTES:
        raise _broken(f"a range of {count} elements of {entry.dtype}, at most {MAX_RANGE_BYTES} bytes are read")
    if not 1 <= changed <= count or start + count > entry.num_elements:
        raise _broken(f"{changed} of elements {start} to {start + count}, in a tensor of {entry.num_elements}")
    if coding == _WHOLE:
        fits = changed == count and place_bytes == 0
    elif coding == _BITS:
        fits = place_bytes == -(-count // 8)
    else:
        width = _GAP_BYTES.get(coding, 0)
        most = width * (changed + count // (256**width - 1)) if width else -1
        fits = changed * width <= place_bytes <= most and place_bytes % width == 0
    if not fits:
        raise _broken(f"coding {coding} with {place_bytes} bytes for {changed} places among {count}")


def _places_of(written: memoryview, coding: int, count: int, changed: int) -> Array | None:
    if coding == _WHOLE:
        return None
    if coding == _BITS:
        bits = np.unpackbits(np.frombuffer(written, np.uint8), bitorder="little")
        places = np.flatnonzero(bits)
    else:
        dtype = np.dtype(f"<u{_GAP_BYTES[coding]}")
        gaps = np.frombuffer(written, dtype)
        ends = np.flatnonzero(gaps != np.iinfo(dtype).max)
        if not ends.size or ends[-1] != gaps.size - 1:
            raise _broken("its last gap goes on")
        places = np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(ends.size)
    if places.size != changed or places[-1] >= count:
        raise _broken(f"{places.size} places up to {places[-1] if places.size else 0}, not {changed} below {count}")
    return places


def _broken(problem: str) -> WeightsFormatError:
    return WeightsFormatError(_WHAT, problem)
