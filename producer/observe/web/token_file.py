"""The token that opens the page, from where no list of processes shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .errors import WebSetupError
from .sessions import ADVICE, MOST, check_token

VARIABLE = "ROLLSTREAM_WEB_TOKEN"


def read_token(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The token of the file, else of the environment; None if neither has one. Raises `WebSetupError`."""
    if file is None:
        given = environment.get(VARIABLE)
        return None if given is None else check_token(VARIABLE, given.strip())
    try:
        with file.open("rb") as opened:
            data = opened.read(2 * MOST)
    except OSError as error:
        raise WebSetupError(f"--token-file {file}", f"{error.strerror}; {ADVICE}") from None
    return check_token(f"--token-file {file}", data.decode("utf-8", "replace").strip())
