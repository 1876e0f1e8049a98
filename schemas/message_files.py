"""A message in a file: its bytes, of bounded size. For trainers, the command line and workers."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from .errors import SchemaError, cut
from .weights.regular_files import open_regular, writing_problem
from .wire.codec import decode, encode
from .wire.messages import Message
from .wire.proofs.golden import MAX_GOLDEN_BYTES, Golden
from .wire.proofs.probe import Probe

M = TypeVar("M", bound=Message)


class MessageFileError(SchemaError):
    """Raised when a file does not hold the message that it should, or cannot be read or written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(cut(f"{path} {problem}"))
        self.path = path
        self.problem = cut(problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFiles(Generic[M]):
    """Reads and writes files that hold one message of a kind."""

    kind: type[M]
    max_bytes: int
    what: str
    """What such a file holds, as errors name it."""

    def read(self, path: Path) -> M:
        """Raises `MessageFileError`."""
        try:
            with open_regular(path) as file:
                data = file.read(self.max_bytes + 1)
        except OSError as error:
            raise MessageFileError(path, f"cannot be read: {error.strerror or error}") from None
        if len(data) > self.max_bytes:
            raise MessageFileError(path, f"holds no {self.what}: it has more than {self.max_bytes} bytes")
        try:
            return decode(data, self.kind)
        except SchemaError as error:
            raise MessageFileError(path, f"holds no {self.what}: {error}") from None

    def check_writable(self, path: Path) -> None:
        """Raises `MessageFileError` where `write` surely would."""
        if problem := writing_problem(path):
            raise MessageFileError(path, f"cannot be written: {problem}")

    def write(self, path: Path, message: M) -> None:
        """Write the file whole or not at all, in place of one of that name. Raises `MessageFileError`."""
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            try:
                draft.write_bytes(encode(message))
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise MessageFileError(path, f"cannot be written: {error.strerror or error}") from None


PROBE_FILES = MessageFiles(kind=Probe, max_bytes=2**20, what="probe")
"""A probe has at most 8192 tokens, so far fewer bytes."""
GOLDEN_FILES = MessageFiles(kind=Golden, max_bytes=MAX_GOLDEN_BYTES, what="golden jobs")
