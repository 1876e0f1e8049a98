"""What goes wrong between the parties of a round."""

from __future__ import annotations

from rollstream.schemas.errors import RollstreamError, cut


class LinkError(RollstreamError):
    """Raised when processes could not be linked, or the link broke: nothing more comes through it."""

    def __init__(self, problem: str) -> None:
        super().__init__(cut(problem))
        self.problem = cut(problem)
