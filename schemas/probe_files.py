"""A probe in a file: the bytes of its message, of bounded size. For trainers, the command line and workers."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import SchemaError, cut
from .weights.regular_files import open_regular, writing_problem
from .wire.codec import decode, encode
from .wire.probe import Probe

_MAX_BYTES = 2**20
"""A probe has at most 8192 tokens, so far fewer bytes."""


class ProbeFileError(SchemaError):
    """Raised when a file holds no probe, or cannot be written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(cut(f"{path} {problem}"))
        self.path = path
        self.problem = cut(problem)


def read_probe(path: Path) -> Probe:
    """Raises `ProbeFileError`."""
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ProbeFileError(path, f"cannot be read: {error.strerror or error}") from None
    if len(data) > _MAX_BYTES:
        raise ProbeFileError(path, f"is no probe: it has more than {_MAX_BYTES} bytes")
    try:
        return decode(data, Probe)
    except SchemaError as error:
        raise ProbeFileError(path, f"is no probe: {error}") from None


def check_writable(path: Path) -> None:
    """Raises `ProbeFileError` where `write_probe` surely would."""
    if problem := writing_problem(path):
        raise ProbeFileError(path, f"cannot be written: {problem}")


def write_probe(path: Path, probe: Probe) -> None:
    """Write the file whole or not at all. Raises `ProbeFileError`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            partial.write_bytes(encode(probe))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ProbeFileError(path, f"cannot be written: {error.strerror or error}") from None
