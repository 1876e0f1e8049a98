"""Weights that are not finite are found by their bits, a piece at a time, whatever the size of a tensor.

One NaN in an adapter reaches the other requests of its batch: the CPU kernels add 0 times its weights to theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from schemas.regular_files import open_regular
from worker.safetensors_header import TensorHeader

_PIECE = 2**20

# The integer of the same width, and the bits that are all set in what is not finite (E4M3 has no infinities).
_NOT_FINITE = {
    "F32": ("<u4", 0x7F80_0000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F8_E5M2": ("<u1", 0x7C),
    "F8_E4M3": ("<u1", 0x7F),
}  # fmt: skip

FLOATS = tuple(_NOT_FINITE)
"""What may be asked of, as safetensors spells it."""


def first_not_finite(path: Path, tensors: Mapping[str, TensorHeader]) -> str | None:
    """The first of a safetensors file's tensors (all of `FLOATS`) with a NaN or an infinity. Raises `OSError`.

    Reads every byte, holding 1 MiB: blocks for about 0.1 s per 100 MB, so call it in a thread.
    """
    ordered = sorted(tensors.items(), key=lambda item: item[1].start)
    with open_regular(path) as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        for name, tensor in ordered:
            width, bits = _NOT_FINITE[tensor.dtype]
            left = tensor.end - tensor.start
            while left > 0 and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                values = np.frombuffer(piece, width, len(piece) // int(width[-1]))
                if ((values & bits) == bits).any():
                    return name
    return None
