"""What tells one processor of images from another: what it makes of a picture that is the same for all workers.

Settings would not do: some are given to vLLM beside the model's files, and releases of
transformers name them otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....requests import Picture

_SIDE = 56
"""Pixels of a side."""
_STEP = 1 / 16
"""Values are told apart by so much: CPUs differ in a float's last bits. Of many values a small change moves some over
a border."""


def probe_picture() -> Picture:
    """A picture with many values in each channel, and edges that filters smooth differently."""
    rows, columns = np.indices((_SIDE, _SIDE))
    edges = 255 * (rows // 8 + columns // 8) // 12
    pixels = np.stack([(5 * rows + 3 * columns) % 256, (rows * columns) % 256, edges], 2)
    return Picture(sha256="0" * 64, pixels=pixels.astype(np.uint8))


def digest_of(items: Sequence[Mapping[str, Any]]) -> str:
    """The hex digest of what vLLM's processor made of `probe_picture()`: the arguments of the model, by name.

    A value is a tensor, a number, or a list of them. Raises `TypeError` for anything else.
    """
    digest = hashlib.sha256()
    for item in items:
        for name in sorted(item):
            for array in _arrays(name, item[name]):
                digest.update(f"{name}{array.shape}".encode() + _steps(array).astype("<i8").tobytes())
    return digest.hexdigest()


def _arrays(name: str, value: Any) -> Iterator[NDArray[Any]]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _arrays(name, one)
    elif isinstance(value, int | float):
        yield np.asarray(value)
    elif value is not None:
        yield _array(name, value)


def _array(name: str, value: Any) -> NDArray[Any]:
    import torch  # noqa: PLC0415 - an engine over vLLM has it; the worker starts without

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"the processor's {name} is {type(value).__name__}, and no tensor")
    found: NDArray[Any] = (value.float() if value.is_floating_point() else value).cpu().numpy()
    return found


def _steps(array: NDArray[Any]) -> NDArray[Any]:
    return np.rint(array / _STEP) if array.dtype.kind == "f" else array
