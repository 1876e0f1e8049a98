"""A server's token, from where no list of processes shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .errors import ServerSetupError
from .tokens import ADVICE, MOST, check_token


def read_token(file: Path | None, environment: Mapping[str, str], variable: str) -> str | None:
    """The token of the file, else of this variable; None if neither has one. Raises `ServerSetupError`."""
    if file is None:
        given = environment.get(variable)
        return None if given is None else check_token(variable, given.strip())
    try:
        with file.open("rb") as opened:
            data = opened.read(2 * MOST)
    except OSError as error:
        raise ServerSetupError(f"--token-file {file}", f"{error.strerror}; {ADVICE}") from None
    return check_token(f"--token-file {file}", data.decode("utf-8", "replace").strip())
