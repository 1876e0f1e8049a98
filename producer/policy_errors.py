"""What can go wrong around policy versions: publishing them, waiting for them, bounding how stale samples get."""

from __future__ import annotations

from typing import TYPE_CHECKING

from producer.errors import ProducerError
from schemas.errors import shown

if TYPE_CHECKING:
    from schemas import GroupError

MAX_VERSION = 2**31 - 1


class AdapterError(ProducerError):
    """Raised when an adapter cannot be read or sent; nothing was published that a worker would take."""

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
    """Raised when a checkpoint's folder cannot be published; nothing was announced."""

    def __init__(self, folder: str, problem: str) -> None:
        super().__init__(f"checkpoint {folder}: {problem}")
        self.folder = folder
        self.problem = problem


class PolicyVersionError(ProducerError):
    """Raised when a version cannot be published; nothing was announced.

    `newest` is the newest one published, where that is why; `taken`: this one exists, with other content.
    """

    def __init__(self, version: object, problem: str, newest: int | None = None, *, taken: bool = False) -> None:
        super().__init__(f"policy version {shown(version)} cannot be published: {problem}")
        self.version = version
        self.problem = problem
        self.newest = newest
        self.taken = taken


class VersionBoundError(ProducerError):
    """Raised when `min_policy_version` or `max_staleness` is no number of versions; nothing was queued."""

    def __init__(self, name: str, value: object) -> None:
        super().__init__(f"{name} {shown(value)}: give an integer from 0 to {MAX_VERSION}, or None for no bound")
        self.name = name
        self.value = value


class VersionWaitError(ProducerError):
    """Raised when `wait_for_version` is asked for a version, a number of workers or a time that it cannot wait for."""

    def __init__(self, what: str, value: object, rule: str) -> None:
        super().__init__(f"{what} {shown(value)}: {rule}")
        self.what = what
        self.value = value


class VersionTimeoutError(ProducerError):
    """Raised when too few workers serve a version in time; waiting again is safe.

    `live` workers report, `there` of them serve it; `behind` maps the others to the version that they serve and to why
    they refused a newer one, empty where they did not.
    """

    def __init__(
        self, version: int, workers: int | str, there: int, behind: dict[str, tuple[int, str]], timeout_s: float
    ) -> None:
        live = there + len(behind)
        told = [f"{name} serves {served}{f', refused: {why}' if why else ''}" for name, (served, why) in behind.items()]
        listed = "".join(f"; {one}" for one in told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else "")
        hint = listed if live else "; is one started with this policy?"
        super().__init__(
            f"policy version {version} after {timeout_s:g} s: served by {there} of {live} live workers, "
            f"{workers} wanted{hint}"
        )
        self.version = version
        self.workers = workers
        self.live = live
        self.there = there
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
