"""What goes wrong with tensors that a trainer holds."""

from __future__ import annotations

from pathlib import Path

from ..errors import ProducerError


class RowsError(ProducerError):
    """Raised when rows cannot be picked, joined or computed with as asked. `what` is at fault; nothing was changed."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what}: {problem}")
        self.what = what
        self.problem = problem


class TensorFileError(ProducerError):
    """Raised when a file is not what `save` writes. `path` is the file."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem
