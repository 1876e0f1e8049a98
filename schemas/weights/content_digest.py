"""The digest that names a checkpoint's content: the same over the same files, for the trainer and for every worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

CHECKPOINT_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
"""Patterns of the files that make a checkpoint; other files in its folder do not change what is sampled."""


def content_digest(files: Iterable[tuple[str, int, Iterable[bytes]]]) -> str:
    """sha256 over name, size and content of each file, in the order given (callers sort by name)."""
    digest = hashlib.sha256()
    for name, size, content in files:
        digest.update(f"{name}\0{size}\0".encode())
        for piece in content:
            digest.update(piece)
    return digest.hexdigest()
