"""Errors of sending weights in a round."""

from __future__ import annotations

from ..errors import ProducerError


class RoundRefusedError(ProducerError):
    """Raised when weights cannot be sent in a round; nothing was announced, and no worker was asked."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the weights cannot be sent: {problem}")
        self.problem = problem
