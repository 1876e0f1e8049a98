"""Names and files of a checkpoint's folder, which can fail at any call and may hold anything."""

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
    """Translates what a shared folder fails with (ESTALE, EIO, EACCES), also after it was seen to be there."""
    try:
        yield
    except OSError as error:
        where = Path(error.filename).name if isinstance(error.filename, str) else "files"
        problem = "no folder of that name: publish it before it is announced"
        if where != folder.name or not isinstance(error, FileNotFoundError | NotADirectoryError):
            problem = f"cannot be read ({error.strerror})"
        raise CheckpointRefusedError(folder, "folder" if where == folder.name else where, problem) from None


def all_names(folder: Path) -> list[str]:
    """Whatever lies in the folder, sorted. Raises `OSError`."""
    return sorted(path.name for path in folder.iterdir())


def is_content(name: str) -> bool:
    """Whether a file is part of what a checkpoint is announced as."""
    return any(fnmatchcase(name, like) for like in CHECKPOINT_FILES)


def content_names(folder: Path) -> list[str]:
    """Files that are a checkpoint's content, sorted. Raises `OSError`, `CheckpointRefusedError`."""
    names = [name for name in all_names(folder) if is_content(name)]
    for name in names:
        if not name.isprintable():
            raise CheckpointRefusedError(folder, "files", f"the name {name!a} cannot be printed: write it again")
    return names


def inside(folder: Path, name: str) -> Path:
    """The file `name`, a regular one below `folder`: a link out of it would show what was never published."""
    path = Path(os.path.realpath(folder / name))
    if not path.is_relative_to(os.path.realpath(folder)):
        raise CheckpointRefusedError(folder, name, "is a link out of the folder: copy the file into it")
    if not path.is_file():
        raise CheckpointRefusedError(folder, name, "is missing or no regular file: write the checkpoint again")
    return folder / name
