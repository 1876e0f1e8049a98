"""Which content each version number stands for here, so that nobody goes on under other weights of the same number."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from rollstream.schemas.weights.regular_files import open_regular

_PIECE = 2**16
_WEIGHTS = (".safetensors", ".bin", ".pt")


class Contents:
    """Remembers what was served under each number, and asks for what is announced. Changes in the worker's event loop.

    Where a number had two contents here, as of a versions stream that started again, nobody can tell which sampled: it
    has no digest any more.
    """

    def __init__(self, *, boot: str = "", computes: str = "") -> None:
        """`boot`: digest of the boot model, empty if unknown; `computes`: what else decides its numbers, as `dtype`."""
        self._boot = digest_of(boot, computes) if boot else ""
        self._computes = computes
        self._served: defaultdict[int, set[str]] = defaultdict(set)
        self.announced: Callable[[int], str | None] = _nothing
        """The digest, by `of_announced`, of the version of this number in the stream; None if it has none."""

    def serves(self, version: int, digest: str | None) -> None:
        """From now on the version may sample. The digest is that of `of_announced`."""
        self._served[version].add(digest or "")

    def of_announced(self, sha256: str, *, is_adapter: bool) -> str | None:
        """The digest of what is announced so. An adapter's numbers are those of the boot model too."""
        if not sha256 or (is_adapter and not self._boot):
            return None
        return digest_of(sha256, self._boot if is_adapter else self._computes)

    def of(self, version: int) -> str | None:
        """The digest of what this number stands for; None if it cannot be told."""
        if not version:
            return self._boot or None
        served = self._served.get(version)
        if served:
            return (next(iter(served)) or None) if len(served) == 1 else None
        return self.announced(version)


def digest_of(*texts: str) -> str:
    """One digest of all of these in order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def boot_digest(model: Path) -> str:
    """Tells boot models apart: its config, and of each file of weights name, size and three pieces. Blocks shortly.

    Empty if the folder cannot be read.
    """
    try:
        return digest_of(*_signs(model))
    except OSError:
        return ""


def _signs(model: Path) -> Iterator[str]:
    with open_regular(model / "config.json") as file:
        yield hashlib.sha256(file.read(_PIECE)).hexdigest()
    for path in sorted(one for one in model.iterdir() if one.suffix in _WEIGHTS):
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            yield f"{path.name} {size}"
            for at in (0, max(0, size // 2 - _PIECE // 2), max(0, size - _PIECE)):
                file.seek(at)
                yield hashlib.sha256(file.read(_PIECE)).hexdigest()


def _nothing(version: int) -> str | None:  # noqa: ARG001 - until versions are followed
    return None
