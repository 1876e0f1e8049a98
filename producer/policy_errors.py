"""What can go wrong around policy versions: publishing them, waiting for them, bounding how stale samples get."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producer.errors import ProducerError

if TYPE_CHECKING:
    from schemas import GroupError


class AdapterError(ProducerError):
    """Raised when an adapter cannot be read or sent; nothing was published."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"adapter {name!r}: {problem}")
        self.name = name
        self.problem = problem


class AdapterConflictError(ProducerError):
    """Raised when `name@version` was already published with other content."""

    def __init__(self, name: str) -> None:
        super().__init__(f"adapter {name!r} was already published with other content: publish the next version")
        self.name = name


class CheckpointError(ProducerError):
    """Raised when a checkpoint's folder cannot be published."""

    def __init__(self, folder: str, problem: str) -> None:
        super().__init__(f"checkpoint {folder}: {problem}")
        self.folder = folder
        self.problem = problem


class PolicyVersionError(ProducerError):
    """Raised when a version cannot be published: versions are integers from 1 on and only grow.

    `newest` is the newest one published, None where nothing was; `taken`: this one exists, with other content.
    """

    def __init__(self, version: object, newest: int | None, *, taken: bool) -> None:
        why = "it was published with other content" if taken else f"the newest is {newest}"
        why = why if taken or newest is not None else "a version is an integer from 1 to 2**31 - 1"
        super().__init__(f"policy version {version!r} cannot be published: {why}; versions only grow")
        self.version = version
        self.newest = newest
        self.taken = taken


class VersionTimeoutError(ProducerError):
    """Raised when too few workers serve a version in time.

    `behind` maps a worker to the version that it serves and why it refused a newer one.
    """

    def __init__(self, version: int, live: int, behind: dict[str, tuple[int, str]], timeout_s: float) -> None:
        first = list(behind.items())[:5]
        told = "; ".join(f"{name} serves {served} {why and f'({why})'}".strip() for name, (served, why) in first)
        problem = f"version {version} is not served everywhere after {timeout_s:g} s"
        super().__init__(f"{problem}: {live} live workers; {told}")
        self.version = version
        self.live = live
        self.behind = behind
        self.timeout_s = timeout_s


class RolloutFailedError(ProducerError):
    """Raised when groups of a batch failed and the trainer's format has no place for a failed row.

    `errors` has a `GroupError` for each failed group. Nothing is lost: `attach(batch_id)` gives the others.
    """

    def __init__(self, batch_id: str, total: int, errors: dict[int, GroupError]) -> None:
        group, first = min(errors.items())
        told = f"group {group}: {first.code}: {first.field}: {first.message}"
        super().__init__(f"batch {batch_id!r}: {len(errors)} of {total} groups failed, the first: {told}")
        self.batch_id = batch_id
        self.total = total
        self.errors = errors


class StalenessError(ProducerError):
    """Base of what a `StalenessGate` raises. Whatever raised it changed nothing."""


class GateArgumentError(StalenessError):
    """Raised when a `StalenessGate` gets a number that it cannot take, such as a request that can never be admitted."""

    def __init__(self, what: str, value: object, problem: str) -> None:
        super().__init__(f"{what}: {value!r}: {problem}")
        self.what = what
        self.value = value
        self.problem = problem


class NotOutstandingError(StalenessError):
    """Raised when more samples are consumed or returned than are outstanding of those admitted at that version."""

    def __init__(self, samples: int, admitted: int, outstanding: int) -> None:
        super().__init__(f"{samples!r} samples admitted at version {admitted!r}: {outstanding} of them are outstanding")
        self.samples = samples
        self.admitted = admitted
        self.outstanding = outstanding


class VersionNotNewerError(StalenessError):
    """Raised when a trainer advances to a version that is not above its own: versions only grow."""

    def __init__(self, version: object, current: int) -> None:
        super().__init__(
            f"version {version!r} is not an integer above {current}, the trainer's own: versions only grow"
        )
        self.version = version
        self.current = current


class SamplesDueError(StalenessError):
    """Raised when a trainer advances while samples are outstanding that would be too stale from then on."""

    def __init__(self, version: int, due: int, oldest: int, max_staleness: int) -> None:
        super().__init__(
            f"at version {version} {due} outstanding samples would be too stale (the oldest was admitted at {oldest}, "
            f"max_staleness is {max_staleness}): consume or return them first"
        )
        self.version = version
        self.due = due
        self.oldest = oldest
        self.max_staleness = max_staleness
