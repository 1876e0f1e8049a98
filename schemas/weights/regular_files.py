"""Opens files that others wrote without waiting: a pipe or a device in place of a file is refused."""

from __future__ import annotations

import os
import stat
from errno import EINVAL
from pathlib import Path
from typing import BinaryIO


class NotRegularFileError(OSError):
    """Raised when a path names a pipe, a device, a socket or a folder: reading one may wait for ever, or never end."""


def open_regular(path: Path) -> BinaryIO:
    """Open `path` to read bytes. Unlike `open` it never waits for the other end of a pipe.

    Raises `NotRegularFileError` for anything but a regular file or a link to one, `OSError`.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        check_regular(os.fstat(opened), path)
        return os.fdopen(opened, "rb")
    except BaseException:
        os.close(opened)
        raise


def check_regular(found: os.stat_result, path: Path) -> None:
    """Raises `NotRegularFileError` if `found`, the stat of `path`, is no regular file's."""
    if not stat.S_ISREG(found.st_mode):
        kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
        kind = next((name for is_kind, name in kinds if is_kind(found.st_mode)), "device")
        raise NotRegularFileError(EINVAL, f"it is a {kind}, not a regular file", str(path))


def writing_problem(path: Path) -> str:
    """Why a file cannot be made there, as far as its folder shows; empty if nothing speaks against it."""
    if os.access(path.parent, os.W_OK | os.X_OK):
        return ""
    return "its folder cannot be written" if path.parent.is_dir() else "its folder does not exist"
