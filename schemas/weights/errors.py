"""The error of bytes that should be weights."""

from __future__ import annotations

from ..errors import SchemaError, cut


class WeightsFormatError(SchemaError):
    """Raised when bytes are no table of tensors, no records of a delta, or no compressed chunk, as announced."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(cut(f"{what}: {problem}"))
        self.what = what
        self.problem = problem
