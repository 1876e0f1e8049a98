"""What the doctor read, for its checks to judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rollstream.schemas import Activate
from rollstream.transport.acl import Right, Role

from ..operations.queue_state import QueueSeen, WorkerSeen
from ..runs.read_runs import RunSeen
from .batch_checks import BatchSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Something that Redis did not let us read."""

    what: str
    problem: str
    advice: str
    is_denied: bool = False
    """Whether this user lacks a right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSeen:
    """A worker's name in the consumer group."""

    name: str
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSeen:
    """One partition. `group`: whether the consumer group exists; false if there is no stream either."""

    queue: QueueSeen
    group: bool
    consumers: tuple[ConsumerSeen, ...]
    """Without the consumers that stand for parked jobs."""
    stranded: int
    """Pending entries that no worker has renewed or taken over for 1.5 leases; counted up to 1000."""
    ended: tuple[str, ...] = ()
    """Streams that contain the last possible id, so that Redis can add no entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """One Redis server: the only one, or a node of a cluster that holds keys."""

    name: str
    """Host and port; empty outside of a cluster."""
    info: Mapping[str, str]
    """All sections of INFO."""
    appendfsync: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelSeen:
    """What one Sentinel of the URL says: the primary that it names, or why it names none."""

    name: str = ""
    primary: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingVersion:
    """A version that is announced and not active yet."""

    version: int
    activate: Activate
    announced_s_ago: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One policy and its Redis at one moment. What could not be read is empty, and `refusals` says why."""

    url: str
    policy: str
    nodes: tuple[NodeSeen, ...]
    round_trips_s: tuple[float, ...]
    clock_ahead_s: float
    """Redis' clock minus ours, in seconds."""
    role: Role
    """What this user is for; `user` is its name, empty where the URL has none."""
    user: str
    refused_rights: Mapping[Right, str]
    """What Redis would not run for this user though its role needs it, with its reply."""
    wrong_types: Mapping[str, tuple[str, str]]
    """Keys of the wrong type: the expected type and the one found."""
    partitions: tuple[PartitionSeen, ...]
    """Only partitions whose keys could be read."""
    beyond: tuple[int, ...]
    """Partitions that have a stream of jobs but lie outside of the given number of partitions."""
    workers: tuple[WorkerSeen, ...]
    newest_version: int | None
    """The newest active policy version, 0 for none; None if it could not be read."""
    paused: bool
    paused_s_ago: float | None
    lease_s: float
    """The lease that the checks assume: the caller's, else the one that workers agreed on, else the default."""
    lease_agreed: float | None
    """The lease in the control hash; None if there is none or it cannot be read."""
    lease_problem: str
    """Why the lease in the control hash cannot be read; empty if it can."""
    no_version: str
    """An entry id in the versions stream that is higher than any version may be; empty if there is none."""
    batches: tuple[BatchSeen, ...]
    """Only batches with which something is wrong."""
    refusals: tuple[Refusal, ...]
    primary: str = ""
    """Host and port of the primary that the Sentinels name; empty without Sentinels."""
    told_by: str = ""
    """The Sentinel that named it."""
    sentinels: tuple[SentinelSeen, ...] = ()
    is_unchecked: bool = False
    """Whether the URL turns the checks of certificates off."""
    redis_wait: int = 0
    """How many replicas the caller waits for."""
    pending: tuple[PendingVersion, ...] = ()
    """Versions that are announced and not active yet, the newest first."""
    runs: tuple[RunSeen, ...] = ()
    """Runs of trainers, the one that wrote last first."""
