"""The error of probes."""

from __future__ import annotations

from ..errors import ProducerError


class ProbeError(ProducerError):
    """Raised when a probe cannot be made, or cannot prove what is published; nothing was announced."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"probe: {problem}")
        self.problem = problem
