"""A tensor as the weight store has it: bytes in this process' memory, which training cannot change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

Advanced = Callable[[int], None]
"""Called with the number of bytes done so far."""


class TensorValues(NamedTuple):
    """One tensor."""

    dtype: str
    """In safetensors' words."""
    shape: tuple[int, ...]
    values: NDArray[Any]
    """uint8, contiguous: the elements' bytes."""
