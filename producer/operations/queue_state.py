"""What an operator asks first: how many jobs wait, how old they are, and which workers are alive. Never writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.field_values import count_of, seconds_of
from rollstream.schemas.hashes.part_fields import ALL_PARTS
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.keys import GROUP
from rollstream.schemas.pause_reason import PAUSED_FIELD
from rollstream.schemas.printable import printable

from ..policies.live_workers import live_reports
from ..policies.parked import Parked, read_parked
from ..redis_io.connection import Connection
from . import waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSeen:
    """One partition's jobs."""

    partition: int
    entries: int
    """Jobs in the stream, finished ones that are kept for replay included."""
    waiting: int | None
    """Jobs that no worker has taken; None if they are too many to count, or this user may run no script."""
    pending: int
    """Jobs taken and not finished, parked ones included."""
    oldest_waiting_s: float | None
    dead_letters: int
    parked: tuple[Parked, ...] = ()
    """Pending jobs that no worker holds, because they wait for a newer policy version."""
    for_sessions: int = 0
    """Pending jobs that wait, for seconds, for the worker that ran their session's last turn."""
    ids_ahead_s: float = 0.0
    """How far the newest job's id is ahead of Redis' clock. Above 0 the clock was set back and ages are unknown."""
    partials_bytes: int = 0
    """Bytes of what workers keep of running completions, as they are counted for the policy's bound."""

    @property
    def parked_jobs(self) -> int:
        """The number of parked jobs, for any version or worker."""
        return sum(parked.jobs for parked in self.parked) + self.for_sessions


class Reporting(Protocol):
    """A worker with its report."""

    @property
    def consumer(self) -> str:
        """Its name."""

    @property
    def report(self) -> WorkerReport:
        """Its last report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """One live worker, as it reports itself."""

    consumer: str
    report: WorkerReport
    seen_s_ago: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """One policy at one moment."""

    policy: str
    paused: bool
    """An operator paused the queue: workers take no new jobs."""
    paused_s_ago: float | None
    queues: list[QueueSeen]
    workers: list[WorkerSeen]


async def read_queue_state(connection: Connection, keys: Keys) -> QueueState:
    """Read all partitions and workers. Raises `RedisUnavailableError`."""

    async def read(redis: Redis) -> QueueState:
        seconds, micros = await redis.time()
        now = seconds + micros / 1e6
        queues = [await read_queue(redis, keys, partition, now) for partition in range(keys.partitions)]
        paused, paused_s_ago = await read_paused(redis, keys, now)
        workers = await read_workers(redis, keys, now)
        return QueueState(policy=keys.policy, paused=paused, paused_s_ago=paused_s_ago, queues=queues, workers=workers)

    return await connection.call("read the status", read)


def status_json(status: QueueState) -> dict[str, Any]:
    """What `status --json` prints: of each worker the `fields` of its report, as they stand in Redis."""
    found = asdict(status)
    for worker, row in zip(status.workers, found["workers"], strict=True):
        row["fields"] = worker.report.fields()
        del row["report"]
    return found


async def read_paused(redis: Redis, keys: Keys, now: float) -> tuple[bool, float | None]:
    """Whether the queue is paused, and for how many seconds; `now` by Redis' clock."""
    values: Any = await redis.hmget(keys.control(), [PAUSED_FIELD])  # HGET is no right of an exporter
    paused = values[0]
    return (False, None) if paused is None else (True, _ago(seconds_of(paused), now))


async def read_queue(redis: Redis, keys: Keys, partition: int, now: float) -> QueueSeen:
    """One partition; `now` by Redis' clock."""
    jobs = keys.jobs(partition)
    entries = await redis.xlen(jobs)
    group = await consumer_group(redis, jobs)
    oldest = await waiting.oldest_waiting(redis, jobs, group)
    parked, for_sessions = await read_parked(redis, jobs, now) if group and group["pending"] else ((), 0)
    return QueueSeen(
        partition=partition,
        entries=entries,
        waiting=await waiting.waiting_jobs(redis, jobs, group, entries),
        pending=group["pending"] if group else 0,
        oldest_waiting_s=EntryId.of(oldest).age_s(now) if oldest else None,
        dead_letters=await redis.xlen(keys.dead(partition)),
        parked=parked,
        for_sessions=for_sessions,
        ids_ahead_s=waiting.ahead_s((oldest, group["last-delivered-id"] if group else None), now),
        partials_bytes=await _partials_bytes(redis, keys.part_bytes(partition)),
    )


async def _partials_bytes(redis: Redis, key: str) -> int:
    """0 also where the key holds something else: the doctor says that, and no other reader needs it."""
    try:
        counted: Any = await redis.hget(key, ALL_PARTS)
    except ResponseError:
        return 0
    return count_of(counted or b"") or 0


async def consumer_group(redis: Redis, jobs: str) -> dict[str, Any] | None:
    """The row of XINFO GROUPS for the workers' group; None if there is no group yet."""
    try:
        groups: Any = await redis.xinfo_groups(jobs)
    except ResponseError as error:
        if "no such key" in str(error):
            return None
        raise
    return next((group for group in groups if group["name"] == GROUP.encode()), None)


async def read_workers(redis: Redis, keys: Keys, now: float) -> list[WorkerSeen]:
    """The workers that report, sorted by name; `now` by Redis' clock."""
    return seen_workers(await live_reports(redis, keys), now)


def seen_workers(reports: Mapping[str, WorkerReport], now: float) -> list[WorkerSeen]:
    """In the order of `reports`; `now` by Redis' clock."""
    return [
        WorkerSeen(consumer=name, report=report, seen_s_ago=_ago(report.seen_at, now))
        for name, report in reports.items()
    ]


def _ago(moment: float | None, now: float) -> float | None:
    return None if moment is None else max(0.0, round(now - moment, 3))


def waiting_jobs(status: QueueState) -> int | None:
    """Jobs that no worker has taken; None if they could not be counted."""
    counts = [queue.waiting for queue in status.queues]
    return None if None in counts else sum(count or 0 for count in counts)


def remarks(status: QueueState) -> Iterator[str]:
    """Lines for what does not fit the tables: what jobs and groups wait for, and why versions are refused."""
    for queue in status.queues:
        if queue.ids_ahead_s:
            yield (
                f"partition {queue.partition}: its newest job is {age(queue.ids_ahead_s)} ahead of Redis' clock, which "
                "was set back: the ages of jobs are unknown until it has caught up"
            )
    by_version: dict[int, list[Parked]] = {}
    for queue in status.queues:
        for parked in queue.parked:
            by_version.setdefault(parked.version, []).append(parked)
    for version, parts in sorted(by_version.items()):
        jobs, oldest = sum(parked.jobs for parked in parts), max(parts, key=lambda parked: parked.oldest_s)
        since = f"the oldest, of batch {oldest.oldest_batch}, for {age(oldest.oldest_s)}"
        yield printable(f"parked: {jobs} jobs wait for policy version {version}, {since}")
    if jobs := sum(queue.for_sessions for queue in status.queues):
        yield f"parked: {jobs} jobs wait for the worker that ran their session's last turn, for seconds at most"
    if nbytes := sum(queue.partials_bytes for queue in status.queues):
        yield f"partials: {nbytes / 2**20:,.1f} MiB of running completions are kept in Redis"
    if groups := waiting_groups(status.workers):
        yield f"{groups} groups of jobs that workers have read wait for places in their engines"


def waiting_groups(workers: Iterable[WorkerSeen]) -> int:
    """Groups that live workers hold but have not started."""
    return sum(worker.report.waiting_groups or 0 for worker in workers)


def refusals(workers: Iterable[Reporting]) -> dict[tuple[str, str], list[str]]:
    """Names of workers by refused version, `?` where none is named, and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for worker in workers:
        if why := worker.report.policy_error:
            version = refused_version(worker.report)
            found.setdefault(("?" if version is None else str(version), why), []).append(worker.consumer)
    return found


def refused_version(report: WorkerReport) -> int | None:
    """The version that its `policy_error` is about: the newest active one or, if it serves that, one not active yet."""
    serves_newest = report.policy_version is not None and report.policy_version == report.newest_version
    return report.announced_version if serves_newest and report.announced_version is not None else report.newest_version


def age(seconds: float | None) -> str:
    """A duration for people, in at most two units; `-` for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
