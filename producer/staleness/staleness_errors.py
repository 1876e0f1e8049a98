"""Errors of a trainer that bounds how stale its samples may be."""

from __future__ import annotations

from ..errors import ProducerError


class StalenessError(ProducerError):
    """Base of the errors of a `StalenessGate`. A call that raises one has changed nothing."""


class GateArgumentError(StalenessError):
    """Raised for a number that a `StalenessGate` cannot take, such as a request that can never be admitted."""

    def __init__(self, what: str, value: object, problem: str) -> None:
        super().__init__(f"{what}: {value!r}: {problem}")
        self.what = what
        self.value = value
        self.problem = problem


class NotOutstandingError(StalenessError):
    """Raised when more samples are consumed or returned than are outstanding for the version of their admission."""

    def __init__(self, samples: int, admitted: int, outstanding: int) -> None:
        super().__init__(f"{samples!r} samples admitted at version {admitted!r}: {outstanding} of them are outstanding")
        self.samples = samples
        self.admitted = admitted
        self.outstanding = outstanding


class VersionNotNewerError(StalenessError):
    """Raised when a trainer advances to a version that is not above its current one."""

    def __init__(self, version: object, current: int) -> None:
        super().__init__(
            f"version {version!r} is not an integer above {current}, the trainer's own: versions only grow"
        )
        self.version = version
        self.current = current


class SamplesDueError(StalenessError):
    """Raised when a trainer advances while it has outstanding samples that would then be too stale."""

    def __init__(self, version: int, due: int, oldest: int, max_staleness: int) -> None:
        super().__init__(
            f"at version {version} {due} outstanding samples would be too stale (the oldest was admitted at {oldest}, "
            f"max_staleness is {max_staleness}): consume or return them first"
        )
        self.version = version
        self.due = due
        self.oldest = oldest
        self.max_staleness = max_staleness
