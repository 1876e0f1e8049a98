"""Whether the files of an adapter still hold the bytes that were checked: vLLM reads again what it had dropped.

A file that was copied over itself, linked or given other rights is still good. Inode numbers say nothing: some network
file systems give a file another one at each look.
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
"""Name, size, time of modification and of change (ns) of each file that is there."""


@dataclass(frozen=True, slots=True)
class AdapterContent:
    """What the files were when they were read."""

    looks: Looks
    sha256: str | None
    """Digest of all bytes; None where they could not be read."""


def read_content(folder: Path) -> AdapterContent:
    """Reads all of it; blocks."""
    looks = look(folder)
    return AdapterContent(looks, _digest(folder))


def still(folder: Path, content: AdapterContent) -> AdapterContent | None:
    """The same content as its files look now; None where they hold other bytes, or are gone.

    Blocks, for as long as it takes to read them where anything but their bytes changed.
    """
    looks = look(folder)
    if looks == content.looks:
        return content
    if [(name, size) for name, size, *_ in looks] != [(name, size) for name, size, *_ in content.looks]:
        return None
    if content.sha256 is None or _digest(folder) != content.sha256:
        return None
    return AdapterContent(looks, content.sha256)


def look(folder: Path) -> Looks:
    """How the files look now; one that is gone is left out."""
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
