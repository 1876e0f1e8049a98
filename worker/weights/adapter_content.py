"""Check that an adapter's files still hold the bytes that were checked: vLLM drops adapters and reads them again.

A file that was copied over itself, linked or given other rights is still good. Inode numbers are not compared, because
some network file systems give a file another one at each look.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rollstream.schemas.weights.adapter_config import CONFIG_FILE, WEIGHTS_FILE
from rollstream.schemas.weights.regular_files import open_regular

_PIECE = 2**20

Looks = tuple[tuple[str, int, int, int], ...]
"""Name, size, and times of the last modification and change (ns) of each file that exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterContent:
    """What the files held when they were read."""

    looks: Looks
    sha256: str | None
    """Digest of all bytes; None if they could not be read."""


def read_content(folder: Path) -> AdapterContent:
    """Read the adapter's files. Blocks."""
    looks = look(folder)
    return AdapterContent(looks=looks, sha256=_digest(folder))


def still(folder: Path, content: AdapterContent) -> AdapterContent | None:
    """`content` with the files' present looks; None if they hold other bytes or are gone.

    Blocks; reads the files again if their times have changed.
    """
    looks = look(folder)
    if looks == content.looks:
        return content
    if [(name, size) for name, size, *_ in looks] != [(name, size) for name, size, *_ in content.looks]:
        return None
    if content.sha256 is None or _digest(folder) != content.sha256:
        return None
    return AdapterContent(looks=looks, sha256=content.sha256)


def look(folder: Path) -> Looks:
    """How the files look now; a file that is gone is left out."""
    found = []
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with suppress(OSError):
            status = (folder / name).stat()
            found.append((name, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def _digest(folder: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            with open_regular(folder / name) as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
    except OSError:
        return None
    return digest.hexdigest()
