"""If a tied model's checkpoint has an output layer, it must equal the embedding.

vLLM ignores `lm_head.weight` of a tied model. If it differs from the embedding, the model was trained untied, and the
samples would not come from the published weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

from .checkpoint_rules import Tensor, is_embedding, is_head
from .regular_files import open_regular

_PIECE = 2**20

_Found = tuple[Tensor, str]
"""A tensor and the name of its file."""


def head_difference(folder: Path, tensors: Mapping[str, tuple[Tensor, str]]) -> str | None:
    """What is wrong with the output layer of a checkpoint whose model is tied; None if nothing. Raises `OSError`."""
    for head in filter(is_head, sorted(tensors)):
        parts = [name for name in sorted(tensors) if is_embedding(name) and _alike(tensors[name], tensors[head])]
        if not any(_same(folder, tensors[name], tensors[head]) for name in parts):
            differs = f"differs from {parts[0]}" if parts else "is there, but no embedding of its shape and dtype"
            return (
                f"the model's embeddings are tied, so vLLM would ignore {head}, which {differs}: "
                "tie the weights before saving, or start workers with an untied model"
            )
    return None


def _alike(one: _Found, other: _Found) -> bool:
    return (one[0].shape, one[0].dtype) == (other[0].shape, other[0].dtype)


def _same(folder: Path, one: _Found, other: _Found) -> bool:
    return all(first == second for first, second in zip_longest(_bytes(folder, one), _bytes(folder, other)))


def _bytes(folder: Path, found: _Found) -> Iterator[bytes]:
    header, name = found
    with open_regular(folder / name) as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        file.seek(begin + header.start)
        left = header.end - header.start
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            yield piece
