"""Names and files of a checkpoint's folder, which may hold anything and may fail at any call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from rollstream.schemas.weights.content_digest import CHECKPOINT_FILES

from ..errors import CheckpointRefusedError


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn errors of a shared folder (ESTALE, EIO, EACCES), which may come at any time, into our own."""
    try:
        yield
    except OSError as error:
        where = Path(error.filename).name if isinstance(error.filename, str) else "files"
        problem = "no folder of that name (any more): save it again"
        if where != folder.name or not isinstance(error, FileNotFoundError | NotADirectoryError):
            problem = f"cannot be read ({error.strerror})"
        raise CheckpointRefusedError(folder, "folder" if where == folder.name else where, problem) from None


def all_names(folder: Path) -> list[str]:
    """All names in the folder, sorted. Raises `OSError`."""
    return sorted(path.name for path in folder.iterdir())


def is_content(name: str) -> bool:
    """Whether a file of this name is part of a checkpoint's content."""
    return any(fnmatchcase(name, like) for like in CHECKPOINT_FILES)


def content_names(folder: Path) -> list[str]:
    """Names of the files that are a checkpoint's content, sorted. Raises `OSError`, `CheckpointRefusedError`."""
    names = [name for name in all_names(folder) if is_content(name)]
    for name in names:
        if not name.isprintable():
            raise CheckpointRefusedError(folder, "files", f"the name {name!a} cannot be printed: write it again")
    return names


def content_bytes(folder: Path) -> int:
    """Size of the files that are a checkpoint's content. Raises as `content_names` does."""
    return sum((folder / name).stat().st_size for name in content_names(folder))


def inside(folder: Path, name: str) -> Path:
    """The path of the regular file `name` in `folder`. A link out of it is refused: its target was never published."""
    path = Path(os.path.realpath(folder / name))
    if not path.is_relative_to(os.path.realpath(folder)):
        raise CheckpointRefusedError(folder, name, "is a link out of the folder: copy the file into it")
    if not path.is_file():
        raise CheckpointRefusedError(folder, name, "is missing or no regular file: write the checkpoint again")
    return folder / name
