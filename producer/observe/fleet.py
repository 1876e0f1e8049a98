"""One policy at one moment, as Redis tells it: what the page, `top` and the exporter show."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rollstream.schemas.hashes.history import Minute, Rate
from rollstream.schemas.hashes.worker_report import WorkerReport

from ..operations.queue_state import QueueSeen
from .backlog import Backlog


class Presence(StrEnum):
    """Whether a worker's beats come."""

    LIVE = "live"
    LATE = "late"
    """Its report is older than it should be, and still there."""
    GONE = "gone"
    """Its report has expired and it did not say goodbye: it was killed, or cannot reach Redis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetWorker:
    """A worker that reports, or did so until some minutes ago."""

    consumer: str
    presence: Presence
    seen_s_ago: float | None
    """Seconds since its last beat, by Redis' clock; None if that is not known."""
    report: WorkerReport
    """Its last report; of a worker that is gone only what the reader of this had seen before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetVersion:
    """A version in the versions stream."""

    version: int
    source: str
    """`checkpoint` or `adapter`."""
    location: str
    announced_s_ago: float
    served_by: tuple[str, ...]
    """Workers that report it as the version that they serve."""
    refused_by: tuple[str, ...]
    prepared_by: tuple[str, ...] = ()
    """Workers that serve an older one and could serve it at once."""
    waits_for: str = ""
    """What it waits for to be the one to serve: `by_hand` or `when_prepared`; empty once it is active."""
    activated_s_ago: float | None = None
    """Seconds since it was activated; None where its announcement did that, or nothing has yet."""
    reached_all_s: float | None = None
    """Seconds from its activation until every worker served it or a newer one; None if this reader did not see that
    happen."""

    @property
    def active_s_ago(self) -> float:
        """Seconds since it became the one to serve; where it has not yet, since its announcement."""
        return self.announced_s_ago if self.activated_s_ago is None else self.activated_s_ago


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetBatch:
    """A batch as its ledger says."""

    batch_id: str
    submitted_s_ago: float
    groups: int
    done: int
    cancelled: bool
    left_s: float | None
    """Estimated seconds until the last group is done, from how fast this reader saw groups end; None if unknown."""

    @property
    def is_under_way(self) -> bool:
        """Whether a group has no answer yet."""
        return self.done < self.groups


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLetter:
    """A dead letter in short."""

    partition: int
    letter_id: str
    batch_id: str
    """Empty if the letter does not say."""
    error: str
    buried_s_ago: float
    deliveries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Everything that an overview shows. All texts are printable."""

    policy: str
    read_at: float
    """Unix seconds by Redis' clock."""
    paused: bool
    paused_s_ago: float | None
    queues: tuple[QueueSeen, ...]
    open_groups: int
    open_tokens: int
    """The most that workers may still have to generate."""
    open_tokens_by_partition: tuple[int, ...] = ()
    """The same, for each of `queues`."""
    backlog: Backlog | None
    """None if what jobs ask for could not be read."""
    rate: Rate
    minutes: tuple[tuple[int, Minute], ...]
    """The last hour, oldest first: the number of the minute (unix seconds / 60) and its sums, if there are any."""
    workers: tuple[FleetWorker, ...]
    versions: tuple[FleetVersion, ...]
    """The newest of the versions stream, newest first."""
    batches: tuple[FleetBatch, ...]
    """The newest, newest first, and those under way among the rest that were looked at."""
    num_batches: int
    """How many batches are kept in Redis."""
    letters: tuple[FleetLetter, ...]
    """The newest dead letters, newest first."""
    num_letters: int
    redis_memory: int | None
    redis_memory_limit: int | None
    """None if this user may not ask; 0 for no limit."""
    commands: int
    """How many commands this reading took."""
    took_s: float
    problems: tuple[str, ...] = ()
    """What could not be read, and why: keys that something else wrote, rights that are missing, entries left out."""

    @property
    def newest(self) -> FleetVersion | None:
        """The version to serve: the newest active one."""
        return next((one for one in self.versions if not one.waits_for), None)

    @property
    def backlog_s(self) -> float | None:
        """The backlog for people: None while it rests on a speed that nobody measured."""
        known = self.backlog is not None and (self.backlog.measured or not self.backlog.backlog_seconds)
        return self.backlog.backlog_seconds if self.backlog is not None and known else None

    @property
    def partials_bytes(self) -> int:
        """Bytes of what workers keep of running completions, in all partitions."""
        return sum(queue.partials_bytes for queue in self.queues)

    @property
    def tokens_per_s(self) -> float:
        """The sum of what live workers report."""
        return sum(one.report.tokens_per_s or 0.0 for one in self.workers if one.presence is not Presence.GONE)
