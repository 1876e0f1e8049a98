"""The digest that names a checkpoint's content: the same over the same files, for the trainer and for every worker."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

CHECKPOINT_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
"""Patterns of the files that make a checkpoint; other files in its folder do not change what is sampled."""
BLOCK = 16 * 2**20
"""Files are hashed in blocks of so many bytes, the last one shorter, so that several cores share the work."""
_THREADS = max(1, min(4, (os.cpu_count() or 1) // 4))
"""With 4 threads hashing keeps up with a page cache; a machine with few cores has other work for them."""


def content_digest(files: Iterable[tuple[str, int, Iterable[bytes]]]) -> str:
    """sha256 over name, size and the sha256 of each block of each file, in the order given (callers sort by name)."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as threads:
        for name, size, content in files:
            digest.update(f"{name}\0{size}\0".encode())
            for block in _digests(threads, _blocks(content)):
                digest.update(block)
    return digest.hexdigest()


def _digests(threads: ThreadPoolExecutor, blocks: Iterable[list[memoryview]]) -> Iterator[bytes]:
    """The digests of all blocks in order; at most twice as many blocks as threads are in memory."""
    hashing: deque[Future[bytes]] = deque()
    for block in blocks:
        hashing.append(threads.submit(_digest, block))
        if len(hashing) == 2 * _THREADS:
            yield hashing.popleft().result()
    for waiting in hashing:
        yield waiting.result()


def _digest(block: list[memoryview]) -> bytes:
    digest = hashlib.sha256()
    for part in block:
        digest.update(part)
    return digest.digest()


def _blocks(content: Iterable[bytes]) -> Iterator[list[memoryview]]:
    """The content cut into blocks, however long the pieces are in which it comes."""
    block: list[memoryview] = []
    missing = BLOCK
    for piece in content:
        rest = memoryview(piece)
        while len(rest) >= missing:
            yield [*block, rest[:missing]]
            rest, block, missing = rest[missing:], [], BLOCK
        if rest:
            block.append(rest)
            missing -= len(rest)
    if block:
        yield block
