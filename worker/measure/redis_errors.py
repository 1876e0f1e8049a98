"""Counts commands that Redis did not take, for the whole process: `retrying` is called where no object is at hand."""

from __future__ import annotations

from threading import Lock


class FailedCommands:
    """A number that grows, also from the thread of a worker that still loads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.total = 0

    def add(self) -> None:
        """Count one. Call it once for each error, where it is handled and not raised again."""
        with self._lock:
            self.total += 1


FAILED = FailedCommands()
