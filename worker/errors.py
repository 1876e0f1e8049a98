"""What can go wrong in a worker, told apart by who is at fault: the data, the operator or the machine."""

from __future__ import annotations

from schemas import ErrorCode, RollstreamError
from schemas.errors import cut


class WorkerError(RollstreamError):
    """Base of what `worker` raises."""


class SettingsError(WorkerError):
    """Raised at start when a setting cannot work; the process exits 2."""


class DataError(WorkerError):
    """Raised when a group cannot be generated on any worker: answered with a `GroupError`, never retried."""

    def __init__(self, code: ErrorCode, field: str, message: str) -> None:
        super().__init__(cut(message))
        self.code = code
        self.field = cut(field)
        self.message = cut(message)


class UnpublishableError(WorkerError):
    """Raised when a key of a batch holds something else, so that Redis never takes its answers: a dead letter."""


class EngineDiedError(WorkerError):
    """Raised when the engine's process ended or no longer steps; the worker ends non-zero and its jobs stay pending."""
