"""Tensors joined into chunks of bytes, as vLLM's receiver takes them apart: both must cut at the same places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

CHUNK_BYTES = 256 * 2**20
"""A chunk ends with the tensor that makes it larger than this, so one large tensor may make it much larger."""
CHUNKS_AT_ONCE = 2
"""Two are under way: one is filled while the other is taken apart."""


def chunks(tensors: Iterable[Any], most: int = CHUNK_BYTES) -> Iterator[Any]:
    """The bytes of contiguous tensors, joined on their device."""
    import torch  # noqa: PLC0415 - only where tensors are

    held: list[Any] = []
    size = 0
    for tensor in tensors:
        flat = tensor.contiguous().view(-1).view(torch.uint8)
        held.append(flat)
        size += flat.numel()
        if size > most:
            yield torch.cat(held)
            held, size = [], 0
    if held:
        yield torch.cat(held)
