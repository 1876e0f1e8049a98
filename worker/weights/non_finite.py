"""Find weights that are not finite, a piece at a time, whatever the size of a tensor.

One NaN in an adapter spreads to the other requests of its batch: the CPU kernels add 0 times its weights to theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rollstream.schemas.weights.finite import has_not_finite
from rollstream.schemas.weights.regular_files import open_regular

from .safetensors_header import TensorHeader

_PIECE = 2**20

FLOATS = ("F32", "F16", "BF16", "F8_E5M2", "F8_E4M3")
"""The dtypes that an adapter's weights may have, as safetensors names them."""


def first_not_finite(path: Path, tensors: Mapping[str, TensorHeader]) -> str | None:
    """The first of a safetensors file's tensors (all of `FLOATS`) with a NaN or an infinity. Raises `OSError`.

    Reads every byte with 1 MiB of memory. Blocks for about 0.1 s per 100 MB, so call it in a thread.
    """
    ordered = sorted(tensors.items(), key=lambda item: item[1].start)
    with open_regular(path) as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        for name, tensor in ordered:
            left = tensor.end - tensor.start
            while left > 0 and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                if has_not_finite(piece, tensor.dtype):
                    return name
    return None
