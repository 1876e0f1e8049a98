"""Folders of checkpoints on the worker's own disk: the served one, the one before it, and the next one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from pathlib import Path
from threading import Lock

import structlog

from rollstream.schemas.weights.tensor_digest import TensorEntry

from ..cache_folder import CacheFolder
from ..errors import CheckpointRefusedError, SettingsError, VersionRefusedError
from ..weights import checkpoint
from ..weights.checkpoint_folder import content_bytes

MODELS = 2
"""For how many models there must be room at the start: the served one and the next. The one before the served is kept
too, as long as nothing else needs its room."""
FLAG = "--weights-cache"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A complete checkpoint in the cache."""

    sha256: str
    """What it was announced with."""
    folder: Path
    content: checkpoint.Content
    tensors: tuple[TensorEntry, ...] = ()
    """All tensors with their digests, if it came through the store."""


class WeightsCache:
    """Makes room, keeps what is complete, and removes what nobody goes back to.

    One checkpoint is written at a time, but a thread that was told to give up may still end. So what is kept changes
    under a lock, which is never held while files are read or removed; the newest that was kept is the last.
    All calls but `served` block on the disk.
    """

    def __init__(self, *, root: Path | None, model: Path | None) -> None:
        """`root`: None for a folder below the system's temporary one. `model`: what the worker boots with."""
        self._cache = CacheFolder(root, flag=FLAG, prefix="rollstream-weights-")
        self._model = model
        self._changing = Lock()
        self._kept: list[Kept] = []
        self._serving: Path | None = None
        self._before: Path | None = None
        self._number = 0

    def __repr__(self) -> str:
        return f"<WeightsCache {self._cache.folder} {[kept.folder.name for kept in self._kept]}>"

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The oldest first."""
        return tuple(self._kept)

    def open(self) -> None:
        """Make the worker's folder. Raises `SettingsError` where nothing can be written, or two models have no room."""
        self._cache.open()
        folder, nbytes = self._cache.folder, _model_bytes(self._model)
        free, problem = shutil.disk_usage(folder).free, checkpoint.path_problem(folder)
        if free < MODELS * nbytes:
            problem = (
                f"{free} bytes ({free / 2**30:.1f} GiB) are free, and {MODELS} models of {nbytes} bytes "
                f"({nbytes / 2**30:.1f} GiB) must fit: give it more room, or name another folder"
            )
        if problem:
            self._cache.close()
            raise SettingsError(f"{FLAG}: {folder.parent}: {problem}")

    def close(self) -> None:
        """Remove the worker's folder with all that is in it."""
        self._cache.close()

    def find(self, sha256: str) -> Kept | None:
        """The checkpoint that was announced with this digest, if it is here and its files are what they were."""
        found = next((kept for kept in reversed(self._kept) if kept.sha256 == sha256), None)
        if found is not None and not checkpoint.unchanged(found.folder, found.content):
            log.warning("weights in the cache changed, they are brought again", folder=str(found.folder))
            self.remove([found])
            return None
        return found

    @contextmanager
    def writing(self, name: str, nbytes: int, base: Kept | None = None) -> Iterator[Path]:
        """A new folder `name` for a checkpoint of `nbytes`, removed again if it is left by an error.

        `base` is needed for it, and stays. Raises `VersionRefusedError` where it has no room, there or for what is
        written into it.
        """
        self._make_room(nbytes, base)
        with self._changing:
            self._number += 1
            number = self._cache.folder / str(self._number)
        try:
            number.mkdir(parents=True)  # a clean-up of temporary folders may have removed the worker's own
            (number / name).mkdir()
            yield number / name
        except BaseException as error:
            shutil.rmtree(number, ignore_errors=True)
            cause = error.__cause__ if isinstance(error, checkpoint.CopyFailedError) else error
            if isinstance(cause, OSError):
                raise self._unwritable(nbytes, cause) from None
            raise

    def keep(self, kept: Kept) -> None:
        """From now on it is found, until it is neither the newest nor served nor served before."""
        with self._changing:
            self._kept.append(kept)

    def served(self, folder: Path) -> list[Kept]:
        """The engine serves what is in `folder`, here or elsewhere. Returns what is not needed any more."""
        with self._changing:
            if folder != self._serving:
                self._serving, self._before = folder, self._serving
            return [kept for kept in self._kept[:-1] if kept.folder not in (self._serving, self._before)]

    def remove(self, goes: Iterable[Kept]) -> None:
        """Remove checkpoints from the disk."""
        for one in goes:
            with self._changing:
                self._kept = [kept for kept in self._kept if kept is not one]
            shutil.rmtree(one.folder.parent, ignore_errors=True)

    def _make_room(self, nbytes: int, base: Kept | None) -> None:
        """Two stay at most: the served one, and the newest, or else the one before. If there is no room, fewer."""
        with self._changing:
            newest = self._kept[-1].folder if self._kept else None
            stay = {self._serving, newest, self._before if self._serving in (newest, None) else None}
            goes = [kept for kept in self._kept if kept.folder not in stay and kept is not base]
            others = [kept for kept in self._kept if kept.folder != self._serving and kept is not base]
        self.remove(goes)
        for kept in [kept for kept in others if kept not in goes]:
            if self._free() >= nbytes:
                return
            log.warning("weights removed to make room", folder=kept.folder.name, needed=nbytes, free=self._free())
            self.remove([kept])
        if (free := self._free()) < nbytes:
            problem = f"{free} bytes are free, and the checkpoint has {nbytes}: give it more room"
            raise VersionRefusedError(f"{FLAG}: {self._cache.folder.parent}: {problem}")

    def _free(self) -> int:
        self._cache.folder.mkdir(exist_ok=True)
        return shutil.disk_usage(self._cache.folder).free

    def _unwritable(self, nbytes: int, error: OSError) -> VersionRefusedError:
        remedy = ": give it more room" if error.errno in (ENOSPC, EDQUOT) else ""
        problem = f"{os.strerror(error.errno) if error.errno else error} (errno {error.errno})"
        return VersionRefusedError(
            f"{FLAG}: {nbytes} bytes cannot be written to {self._cache.folder}: {problem}{remedy}"
        )


def _model_bytes(model: Path | None) -> int:
    """0 for a model that cannot be read: the engine says why."""
    with suppress(OSError, CheckpointRefusedError):
        return 0 if model is None else content_bytes(model)
    return 0
