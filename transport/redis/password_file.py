"""A password that is kept in a file, and read from it again for every new connection: it may change while we run."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Any

from redis import exceptions
from redis.credentials import CredentialProvider

from .access import File

SETTING = "redis_password_file"
SENTINELS_SETTING = "redis_sentinel_password_file"
_LONGEST = 64 * 1024
_WRITTEN_BY_OTHERS = stat.S_IWOTH | stat.S_IWGRP
_ENTERED_BY_OTHERS = stat.S_IXOTH | stat.S_IXGRP

_told: set[str] = set()
"""The files of which a warning was logged: one process makes several clients."""

log = logging.getLogger("rollstream")


class PasswordFileError(exceptions.AuthenticationError):
    """Raised when the file of the password gives none. redis-py's kind, so that what waits for a password waits."""

    def __init__(self, path: str, problem: str, setting: str = SETTING) -> None:
        super().__init__(f"{setting}={path}: {problem}")
        self.path = path
        self.setting = setting
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.problem, self.setting), vars(self)


class PasswordFile(CredentialProvider):
    """What redis-py asks for user and password whenever it opens a connection."""

    def __init__(self, path: File, *, username: str | None, setting: str = SETTING) -> None:
        self._path = path
        self._setting = setting
        self._username = username

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """The user, if one is named, and the password that the file has now. Raises `PasswordFileError`."""
        password = read_password(self._path, self._setting)
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same. The file is small and near, so a thread would cost more than the read."""
        return self.get_credentials()


def read_password(path: File, setting: str = SETTING) -> str:
    """What the file holds, without the newline that ends it. Raises `PasswordFileError`."""
    shown = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            held = file.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        raise PasswordFileError(shown, getattr(error, "strerror", None) or "no path", setting) from None
    try:
        password = held.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise PasswordFileError(shown, "it is no text in UTF-8", setting) from None
    if not password or len(held) > _LONGEST:
        raise PasswordFileError(shown, "it is empty" if not password else "it is too long for a password", setting)
    return password


def warn_if_open(path: File, setting: str = SETTING) -> None:
    """Log a warning, once, if others than owner and group may read the file, or others than its owner change it.

    One that is mounted into a container often belongs to nobody there, so that all must be able to read it. Outside, a
    folder that lets only its owner in then keeps readers away.
    """
    try:
        found, folder = Path(path).stat(), Path(path).resolve().parent.stat()
    except OSError:
        return
    is_ours = found.st_uid == os.geteuid() or found.st_gid in {os.getegid(), *os.getgroups()}
    is_reached = bool(folder.st_mode & _ENTERED_BY_OTHERS)
    is_open = found.st_mode & (_WRITTEN_BY_OTHERS | (stat.S_IROTH if is_ours and is_reached else 0))
    if is_open and os.fspath(path) not in _told:
        _told.add(os.fspath(path))
        log.warning(
            "%s=%s: other users may read or change it (mode %03o): chmod 640 it, or stricter; "
            "one that containers mount may be 444 in a folder of mode 700",
            setting,
            os.fspath(path),
            stat.S_IMODE(found.st_mode),
        )
