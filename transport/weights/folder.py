"""A folder on a file system that trainer and workers share, as the weight store of one policy."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from rollstream.schemas.weights.regular_files import open_regular

from .store import Stored, is_chunk, is_item

_TEMPORARY = ".part-"
_STALE_S = 3600.0
"""A temporary file that is older was left by a process that died."""


class Folder:
    """Files below `root/<policy>`: `chunks/` and `manifests/`."""

    def __init__(self, root: Path, *, policy: str) -> None:
        self._chunks, self._manifests = (root / policy / kind for kind in ("chunks", "manifests"))

    def write(self, name: str, data: bytes) -> None:
        """Write beside it, flush to the disk, then rename: another process finds the file whole."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)

    def read(self, name: str, most: int) -> bytes:
        """See `Files`. Raises `NotRegularFileError` for a pipe or a device, which is not waited for."""
        with open_regular(self._path(name)) as file:
            return file.read(most + 1)

    def size(self, name: str) -> int:
        """Its bytes."""
        return self._path(name).stat().st_size

    def remove(self, name: str) -> None:
        """Remove one file."""
        self._path(name).unlink()

    def all(self) -> list[Stored]:
        """All files by name; removes what dead writers left."""
        found: list[Stored] = []
        for folder in (self._chunks, self._manifests):
            if folder.is_dir():
                found += _files(folder)
        return found

    def _path(self, name: str) -> Path:
        return (self._chunks if is_chunk(name) else self._manifests) / name


def _files(folder: Path) -> list[Stored]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                stat = entry.stat(follow_symlinks=False)
                if entry.name.startswith(_TEMPORARY) and time.time() - stat.st_mtime > _STALE_S:
                    Path(entry.path).unlink()
                elif is_item(entry.name):
                    found.append(Stored(entry.name, stat.st_size, stat.st_mtime))
            except FileNotFoundError:
                continue
    return found


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # not every shared file system can; the rename stands without it
    finally:
        os.close(descriptor)
