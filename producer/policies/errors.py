"""Errors of policy versions and adapters: of publishing them, asking for them, waiting for them."""

from __future__ import annotations

from rollstream.schemas.entry_id import MAX_VERSION
from rollstream.schemas.errors import shown

from ..errors import ProducerError


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

    `newest` is the newest version, if that is the reason; `taken`: this version exists with other content.
    """

    def __init__(self, version: object, problem: str, newest: int | None = None, *, taken: bool = False) -> None:
        super().__init__(f"policy version {shown(version)} cannot be published: {problem}")
        self.version = version
        self.problem = problem
        self.newest = newest
        self.taken = taken


class PolicyKindError(ProducerError):
    """Raised for an adapter when the newest version is a checkpoint, or the reverse; nothing was announced.

    `source` is the kind of `version`, `newest_source` that of `newest`.
    """

    def __init__(self, version: int, source: str, newest: int, newest_source: str) -> None:
        super().__init__(
            f"policy version {version} cannot be published as {source}: version {newest} is published as "
            f"{newest_source}. An adapter belongs to the model that workers boot with: they would serve the one or the "
            f"other, depending on when they started. Publish every version as {newest_source}, or start workers and "
            "trainer under another policy name"
        )
        self.version = version
        self.source = source
        self.newest = newest
        self.newest_source = newest_source


class ActivationError(ProducerError):
    """Raised when a version cannot be activated; nothing changed. `newest` is the newest activated version."""

    def __init__(self, version: object, problem: str, newest: int | None = None) -> None:
        super().__init__(f"policy version {shown(version)} cannot be activated: {problem}")
        self.version = version
        self.problem = problem
        self.newest = newest


class VersionBoundError(ProducerError):
    """Raised when `min_policy_version` or `max_staleness` is not a valid number of versions; nothing was queued."""

    def __init__(self, name: str, value: object) -> None:
        super().__init__(f"{name} {shown(value)}: give an integer from 0 to {MAX_VERSION}, or None for no bound")
        self.name = name
        self.value = value


class VersionWaitError(ProducerError):
    """Raised when `wait_for_version` gets an invalid version, number of workers or time."""

    def __init__(self, what: str, value: object, rule: str) -> None:
        super().__init__(f"{what} {shown(value)}: {rule}")
        self.what = what
        self.value = value


class VersionTimeoutError(ProducerError):
    """Raised when too few workers serve a version in time; waiting again is safe.

    `live` workers report and `there` of them serve it. `behind` maps the others to the version that they serve and the
    reason why they refused a newer one (empty if they did not). `waiting_for` says all this in a sentence.
    """

    def __init__(
        self,
        version: int,
        workers: int | str,
        there: int,
        behind: dict[str, tuple[int, str]],
        timeout_s: float,
        waiting_for: str = "",
    ) -> None:
        super().__init__(f"policy version {version} after {timeout_s:.4g} s: {waiting_for}")
        self.version = version
        self.workers = workers
        self.live = there + len(behind)
        self.there = there
        self.behind = behind
        self.timeout_s = timeout_s
        self.waiting_for = waiting_for
