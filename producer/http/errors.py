"""What keeps a server from starting."""

from __future__ import annotations

from ..errors import ProducerError


class ServerSetupError(ProducerError):
    """Raised when the server cannot be started as it was asked to; `what` is the setting, `problem` says what to do."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what}: {problem}")
        self.what = what
        self.problem = problem
