"""A folder of a worker's own for a cache, removed when the worker ends. A killed worker's is removed by the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from .errors import SettingsError

_LOCK = ".lock"
_PROBE = ".probe"


class CacheFolder:
    """A folder below `root` (None: the system's temporary folder) from `open` to `close`, both of which block."""

    def __init__(
        self, root: Path | None, *, flag: str = "--adapter-cache", prefix: str = "rollstream-adapters-"
    ) -> None:
        """`flag` is what named `root`; the names of all folders of this kind begin with `prefix`."""
        self._named = root
        self._flag = flag
        self._prefix = prefix
        self._root = root or Path()
        self._lock = -1
        self.folder = self._root

    def __repr__(self) -> str:
        return f"<CacheFolder {self.folder}>"

    def open(self) -> None:
        """Make the folder. Raises `SettingsError` if nothing can be written."""
        try:
            self._root = self._named or Path(tempfile.gettempdir())
            self._root.mkdir(parents=True, exist_ok=True)
            for left in self._root.glob(f"{self._prefix}*"):
                _remove_left(left)
            self.folder, self._lock = _new(self._root, self._prefix)
        except OSError as error:
            where = self._named or "no temporary folder (TMPDIR)"
            remedy = "name a folder in which this user may write"
            raise SettingsError(f"{self._flag}: {where}: {error.strerror or error}; {remedy}") from None

    def check(self, nbytes: int) -> None:
        """Raises `OSError` if a file of `nbytes` cannot be written now. Blocks."""
        self.folder.mkdir(exist_ok=True)  # a clean-up of temporary folders may have removed it
        probe = self.folder / _PROBE
        try:
            with probe.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, nbytes))
        finally:
            probe.unlink(missing_ok=True)

    def can_ever_hold(self, nbytes: int) -> bool:
        """False if the whole disk is smaller."""
        try:
            return nbytes <= shutil.disk_usage(self._root).total
        except OSError:
            return True

    def close(self) -> None:
        """Remove the folder, if it was made."""
        if self._lock >= 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _new(root: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, and its lock. Before it is locked another worker that starts may take it for a dead one's."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root)).resolve()
        try:
            lock = _locked(folder / _LOCK, os.O_CREAT)
        except (BlockingIOError, FileNotFoundError):  # it is being removed, or is gone
            continue
        if (folder / _LOCK).exists():
            return folder, lock
        os.close(lock)


def _locked(path: Path, flags: int = 0) -> int:
    """Lock a file; returns a descriptor. The lock ends with the process. Raises `OSError` if another process has it."""
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _remove_left(folder: Path) -> None:
    """Remove a dead worker's folder, if it is this user's. A folder without a lock file is just being made."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        lock = _locked(folder / _LOCK)
    except OSError:
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
