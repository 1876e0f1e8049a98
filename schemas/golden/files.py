"""A golden file on disk: one message, of bounded size."""

from __future__ import annotations

import secrets
from pathlib import Path

from ..errors import SchemaError, cut
from ..weights.regular_files import open_regular, writing_problem
from ..wire.codec import decode, encode
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


def check_writable(path: Path) -> None:
    """Raises `GoldenFileError` where `write_golden` surely would."""
    if problem := writing_problem(path):
        raise GoldenFileError(path, problem)


def write_golden(path: Path, golden: Golden) -> None:
    """Write the file whole or not at all, in place of one of that name. Raises `GoldenFileError`."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            draft.write_bytes(encode(golden))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise GoldenFileError(path, f"it cannot be written: {error.strerror}") from None
