"""Any place that fsspec reaches (object stores, other machines' files), as the weight store of one policy."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .store import Stored, is_chunk, is_item

_CHANGED = ("mtime", "LastModified", "last_modified", "updated", "created", "modified", "timeModified")
"""How fsspec's file systems name the time of a file's last change."""


class UrlFiles:
    """Files below `<url>/<policy>`: `chunks/` and `manifests/`. Object stores write a file whole or not at all."""

    def __init__(self, *, file_system: Any, root: str, policy: str) -> None:
        self._fs = file_system
        self._root = f"{root.rstrip('/')}/{policy}"

    def write(self, name: str, data: bytes) -> None:
        """Write one file."""
        path = self._path(name)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(path, data)

    def read(self, name: str, most: int) -> bytes:
        """See `Files`."""
        return bytes(self._fs.cat_file(self._path(name), start=0, end=most + 1))

    def size(self, name: str) -> int:
        """Its bytes."""
        self._fs.invalidate_cache()  # other machines write too
        return int(self._fs.info(self._path(name))["size"])

    def remove(self, name: str) -> None:
        """Remove one file."""
        self._fs.rm_file(self._path(name))

    def all(self) -> list[Stored]:
        """All files by name."""
        self._fs.invalidate_cache()
        found: list[Stored] = []
        for kind in ("chunks", "manifests"):
            try:
                listed = self._fs.ls(f"{self._root}/{kind}", detail=True)
            except FileNotFoundError:
                continue
            found += [stored for info in listed if (stored := _stored(info)) is not None]
        return found

    def _path(self, name: str) -> str:
        return f"{self._root}/{'chunks' if is_chunk(name) else 'manifests'}/{name}"


def _stored(info: Any) -> Stored | None:
    name = str(info["name"]).rpartition("/")[2]
    if not is_item(name):
        return None
    changed = next((info[key] for key in _CHANGED if info.get(key)), None)
    if isinstance(changed, datetime):
        changed = changed.timestamp()
    return Stored(name, int(info["size"] or 0), float(changed) if isinstance(changed, int | float) else None)
