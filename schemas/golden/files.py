"""A golden file on disk: one message, of bounded size."""

from __future__ import annotations

from pathlib import Path

from ..errors import SchemaError, cut
from ..weights.regular_files import open_regular
from ..wire.codec import decode
from ..wire.golden import MAX_GOLDEN_BYTES, Golden


class GoldenFileError(SchemaError):
    """Raised when a file holds no golden jobs that can be used."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(cut(f"golden file {path}: {problem}"))
        self.path = path
        self.problem = cut(problem)


def read_golden(path: Path) -> Golden:
    """Raises `GoldenFileError`."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_GOLDEN_BYTES + 1)
    except OSError as error:
        raise GoldenFileError(path, error.strerror or "it cannot be read") from None
    if len(data) > MAX_GOLDEN_BYTES:
        raise GoldenFileError(
            path, f"it has more than {MAX_GOLDEN_BYTES} bytes, so `rollstream golden` did not write it"
        )
    try:
        return decode(data, Golden)
    except SchemaError as error:
        raise GoldenFileError(path, f"it holds no golden jobs: {error}") from None
