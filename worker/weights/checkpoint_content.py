"""Which bytes a checkpoint's files held, and whether they still do.

Only a digest proves that, and takes seconds for gigabytes. So signs of a change are checked first, and files are read
again only if there is one. A changed inode number alone is no sign: some network and FUSE file systems give another one
at each look.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from threading import Event

from rollstream.schemas.weights.checkpoint_rules import is_computed
from rollstream.schemas.weights.content_digest import content_digest
from rollstream.schemas.weights.finite import FiniteScan, not_finite
from rollstream.schemas.weights.regular_files import open_regular
from rollstream.schemas.weights.tensor_digest import TensorEntry, tensors_digest

from ..errors import CheckpointRefusedError
from .checkpoint_folder import all_names, content_names, inside, is_content, reading
from .safetensors_header import HeaderError, read_header

_PIECE = 2**20

Stamp = tuple[tuple[str, int, int], ...]
"""Name, size and modification time of each file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What is known of a file without reading it."""

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int | None
    """None if the file system gives another one at each look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What the files of a checkpoint held when they were read."""

    sha256: str | None
    """None if the files have not been read."""
    files: tuple[_File, ...]
    is_of_tensors: bool = False
    """Whether `sha256` is the digest of the tensors (the weight store's), not of the files."""
    spoilt: tuple[str, str] | None = None
    """The file with the first weight that is NaN or infinite, and what that means; None if all are finite."""


def read_content(folder: Path, given_up: Event | None = None) -> Content:
    """Read every byte of a checkpoint, a piece at a time. Raises `CheckpointRefusedError`.

    Blocks for seconds, so call it in a thread; only `given_up` ends it early.
    """
    with reading(folder):
        before = {file.name: file for file in _look(folder)}
        scans = {name: FiniteScan(is_computed) for name in content_names(folder) if name.endswith(".safetensors")}
        paths = [inside(folder, name) for name in content_names(folder)]
        sha256 = content_digest(
            (path.name, path.stat().st_size, _pieces(path, scans.get(path.name), given_up)) for path in paths
        )
        after = {file.name: file.inode for file in _look(folder)}
    files = (file if after.get(name) == file.inode else replace(file, inode=None) for name, file in before.items())
    return Content(sha256=sha256, files=tuple(files), spoilt=_spoilt(scans))


class CopyFailedError(Exception):
    """Raised when a copy cannot be written; the cause is an `OSError`."""


def copy_content(folder: Path, target: Path, given_up: Event | None = None) -> Content:
    """Copy a checkpoint's files into the folder `target`, and read each byte once, for its digest and for the copy.

    What it returns describes the copy. Blocks for seconds, so call it in a thread; only `given_up` ends it early.
    Raises `CheckpointRefusedError`, and `CopyFailedError` where the copy cannot be written.
    """
    with reading(folder), ThreadPoolExecutor(1, "copy") as writer:
        scans = {name: FiniteScan(is_computed) for name in content_names(folder) if name.endswith(".safetensors")}
        paths = [inside(folder, name) for name in content_names(folder)]
        sha256 = content_digest(
            (
                path.name,
                path.stat().st_size,
                _copied(_pieces(path, scans.get(path.name), given_up), target / path.name, writer),
            )
            for path in paths
        )
    return Content(sha256=sha256, files=_settled(target), spoilt=_spoilt(scans))


def store_content(folder: Path, sha256: str) -> Content:
    """The content of files that this worker wrote and verified: the tensors have the digest `sha256`."""
    return Content(sha256=sha256, files=_settled(folder), is_of_tensors=True)


def unread_content(folder: Path) -> Content:
    """The files as they look now, without reading them; a file that cannot be seen is left out."""
    return Content(sha256=None, files=_look(folder))


def digest(folder: Path, given_up: Event | None = None) -> str:
    """The sha256 (hex) that names the content of a checkpoint folder. Blocks and raises as `read_content` does."""
    return read_content(folder, given_up).sha256 or ""


def holds(folder: Path, sha256: str) -> bool:
    """Whether the folder is the version with this digest, published as files or through the weight store.

    Blocks and raises as `read_content` does.
    """
    return sha256 in (digest(folder), _tensors_digest(folder))


def unchanged(folder: Path, content: Content) -> bool:
    """Whether the files still hold `content`. If in doubt it reads them again, which blocks for seconds."""
    now = _look(folder)
    if [(file.name, file.size) for file in now] != [(file.name, file.size) for file in content.files]:
        return False
    if content.sha256 is None:
        return all(one.mtime_ns == other.mtime_ns for one, other in zip(now, content.files, strict=True))
    if all(map(_looks_the_same, now, content.files)):
        return True
    try:
        return (_tensors_digest(folder) if content.is_of_tensors else digest(folder)) == content.sha256
    except CheckpointRefusedError:
        return False


def stamp(folder: Path) -> Stamp:
    """A value that changes when a checkpoint's files do, without reading them. Unseen files are left out; never raises.

    A folder that cannot be read has an empty stamp; `read_content` says why.
    """
    return tuple((file.name, file.size, file.mtime_ns) for file in _look(folder))


def _look(folder: Path) -> tuple[_File, ...]:
    found = []
    with suppress(OSError):
        for name in filter(is_content, all_names(folder)):
            with suppress(OSError):
                status = (folder / name).stat()
                found.append(
                    _File(
                        name=name,
                        size=status.st_size,
                        mtime_ns=status.st_mtime_ns,
                        ctime_ns=status.st_ctime_ns,
                        inode=status.st_ino,
                    )
                )
    return tuple(found)


def _settled(folder: Path) -> tuple[_File, ...]:
    """How files look that were just written."""
    before = {file.name: file.inode for file in _look(folder)}
    files = _look(folder)
    return tuple(file if before.get(file.name) == file.inode else replace(file, inode=None) for file in files)


def _looks_the_same(now: _File, before: _File) -> bool:
    return now == (before if before.inode is not None else replace(before, inode=now.inode))


def _spoilt(scans: Mapping[str, FiniteScan]) -> tuple[str, str] | None:
    return next(((name, not_finite(scan.spoilt)) for name, scan in scans.items() if scan.spoilt), None)


def _tensors_digest(folder: Path) -> str:
    with reading(folder):
        paths = [inside(folder, name) for name in content_names(folder) if name.endswith(".safetensors")]
        return tensors_digest(entry for path in paths for entry in tensor_entries(path))


def tensor_entries(path: Path) -> Iterator[TensorEntry]:
    """All tensors of a safetensors file, each read for its digest. Raises `CheckpointRefusedError`, `OSError`."""
    try:
        tensors = read_header(path)
    except HeaderError as error:
        raise CheckpointRefusedError(path.parent, path.name, str(error)) from None
    with open_regular(path) as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        for name, tensor in tensors.items():
            file.seek(begin + tensor.start)
            digest = hashlib.sha256()
            for at in range(tensor.start, tensor.end, _PIECE):
                digest.update(file.read(min(_PIECE, tensor.end - at)))
            yield TensorEntry(name, tensor.dtype, tensor.shape, digest.hexdigest())


def _copied(pieces: Iterator[bytes], path: Path, writer: Executor) -> Iterator[bytes]:
    """The same pieces. Each is written while the caller takes its digest."""
    try:
        file = path.open("xb", buffering=0)
    except OSError as error:
        raise CopyFailedError from error
    with file:
        for piece in pieces:
            written = writer.submit(_write, file, piece)
            yield piece
            written.result()


def _write(file: RawIOBase, piece: bytes) -> None:
    left = memoryview(piece)
    try:
        while left:
            left = left[file.write(left) or 0 :]
    except OSError as error:
        raise CopyFailedError from error


def _pieces(path: Path, scan: FiniteScan | None, given_up: Event | None) -> Iterator[bytes]:
    with open_regular(path) as file:
        while piece := file.read(_PIECE):
            if given_up is not None and given_up.is_set():
                raise CheckpointRefusedError(path.parent, path.name, "not read to its end, the worker ends")
            if scan is not None:
                scan.feed(piece)
            yield piece
