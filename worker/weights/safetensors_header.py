"""Names, dtypes and shapes of a safetensors file from its header alone, with ceilings: no tensor is read.

A file that passes here also passes the safetensors library's checks, so that vLLM can read it. Why not that library
itself: it tells no offsets, and it maps the file into memory, where one that shrinks meanwhile kills the process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollstream.schemas.weights.regular_files import open_regular

from .untrusted_json import MAX_BYTES, JsonRefusedError, parse_object

_MAX_DIMENSIONS = 64
"""The most dimensions of a tensor in torch."""

_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


class HeaderError(ValueError):
    """Raised when a file is missing, truncated or not in the safetensors format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """What a header says about one tensor."""

    dtype: str
    """As the format names it: F32, BF16, U8, ..."""
    shape: tuple[int, ...]
    start: int
    """Where the tensor's bytes start, counted from the end of the header."""
    end: int


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Tensor name to its header. Raises `HeaderError`."""
    try:
        size = path.stat().st_size
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_BYTES, size - 8):
                raise HeaderError(f"{path.name} is truncated or no safetensors file")
            header = parse_object(file.read(length))
    except OSError as error:
        raise HeaderError(f"{path.name} is not readable ({error.strerror})") from None
    except JsonRefusedError as error:
        raise HeaderError(f"{path.name}: its header {error}") from None
    tensors = {tensor: _parse(path.name, found) for tensor, found in header.items() if tensor != "__metadata__"}
    if max((tensor.end for tensor in tensors.values()), default=0) != size - 8 - length:
        raise HeaderError(f"{path.name} is truncated or has bytes that its header does not name")
    _check_layout(path.name, tensors)
    return tensors


def _parse(name: str, found: Any) -> TensorHeader:
    try:
        dtype, shape, (start, end) = found["dtype"], tuple(found["shape"]), found["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise HeaderError(f"{name} has no valid safetensors header") from None
    if not (isinstance(dtype, str) and len(shape) <= _MAX_DIMENSIONS and all(map(_is_size, (*shape, start, end)))):
        raise HeaderError(f"{name} has no valid safetensors header")
    return TensorHeader(dtype=dtype, shape=shape, start=start, end=end)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _check_layout(name: str, tensors: Mapping[str, TensorHeader]) -> None:
    """Raises unless the tensors follow one another without a gap, each with the bytes that its shape needs."""
    position = 0
    for tensor, found in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        item = _ITEM_BYTES.get(found.dtype)
        fits = item is None or math.prod(found.shape) * item == found.end - found.start
        if not (fits and found.start == position <= found.end):
            raise HeaderError(f"{name}: the header's offsets of tensor {tensor} do not fit its shape")
        position = found.end
