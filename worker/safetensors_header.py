"""Names, dtypes and shapes of a safetensors file from its header alone, with ceilings: no tensor is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000
"""The format's own ceiling."""


class HeaderError(ValueError):
    """Raised when a file is missing, truncated or no safetensors file."""


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a header says of one tensor."""

    dtype: str
    """The format's word: F32, BF16, U8, ..."""
    shape: tuple[int, ...]
    end: int
    """Where its bytes end, counted from the end of the header."""


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Tensor name to its header. Raises `HeaderError`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise HeaderError(f"{path.name} is truncated or no safetensors file")
            header = json.loads(file.read(length))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HeaderError(f"{path.name} is not readable ({type(error).__name__})") from None
    tensors = _parse(path.name, header)
    if max((tensor.end for tensor in tensors.values()), default=0) != size - 8 - length:
        raise HeaderError(f"{path.name} is truncated or has bytes that its header does not name")
    return tensors


def _parse(name: str, header: Any) -> dict[str, TensorHeader]:
    try:
        return {
            tensor: TensorHeader(str(found["dtype"]), tuple(map(int, found["shape"])), int(found["data_offsets"][1]))
            for tensor, found in header.items()
            if tensor != "__metadata__"
        }
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise HeaderError(f"{name} has no valid safetensors header") from None
