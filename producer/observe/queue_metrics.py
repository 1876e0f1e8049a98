"""What one reading says to Prometheus: the values of `QueueMetric`. Knows no library of Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

from rollstream.schemas.hashes.worker_report import WorkerState
from rollstream.schemas.metrics import Metric, QueueMetric
from rollstream.schemas.wire.envelope import DEFAULT_LANE

from ..operations.queue_state import QueueSeen
from .fleet import Fleet, FleetWorker, Presence
from .refusals import is_refusing

Sample: TypeAlias = tuple[Metric, tuple[str, ...], float]
"""A metric, the values of its labels, and its value."""

LATE, OTHER = Presence.LATE.value, "other"
STATES = (*(state.value for state in WorkerState), LATE, OTHER)
"""The states that `QueueMetric.WORKERS` tells apart; `other` is one that a newer worker may write."""


def samples(fleet: Fleet | None) -> Iterator[Sample]:
    """All that is known; without a reading only that there is none. What is not known has no sample."""
    yield QueueMetric.UP, (), float(fleet is not None)
    if fleet is None:
        return
    for queue, tokens in zip(fleet.queues, fleet.open_tokens_by_partition, strict=True):
        yield from _of_queue(queue, tokens)
    yield from _of_workers(fleet)
    yield QueueMetric.PAUSED, (), float(fleet.paused)
    known = {
        QueueMetric.BACKLOG: None if fleet.backlog is None else fleet.backlog.backlog_seconds,
        QueueMetric.REDIS_MEMORY: fleet.redis_memory,
        QueueMetric.REDIS_MEMORY_LIMIT: fleet.redis_memory_limit,
    }
    yield from ((metric, (), float(value)) for metric, value in known.items() if value is not None)
    yield QueueMetric.READ, (), fleet.took_s
    yield QueueMetric.COMMANDS, (), float(fleet.commands)


def _of_queue(queue: QueueSeen, tokens: int) -> Iterator[Sample]:
    partition = str(queue.partition)
    jobs = {
        "waiting": queue.waiting,
        "pending": queue.pending - queue.parked_jobs,
        "parked": queue.parked_jobs - queue.for_sessions,
        "session": queue.for_sessions,
    }
    for state, count in jobs.items():
        if count is not None:
            yield QueueMetric.JOBS, (partition, DEFAULT_LANE, state), float(max(0, count))
    yield QueueMetric.OLDEST, (partition,), queue.oldest_waiting_s or 0.0
    yield QueueMetric.TOKENS, (partition,), float(tokens)
    yield QueueMetric.PARTIALS, (partition,), float(queue.partials_bytes)
    yield QueueMetric.DEAD_LETTERS, (partition,), float(queue.dead_letters)


def _of_workers(fleet: Fleet) -> Iterator[Sample]:
    alive = [worker for worker in fleet.workers if worker.presence is not Presence.GONE]
    counts = Counter(map(state_of, alive))
    yield from ((QueueMetric.WORKERS, (state,), float(counts[state])) for state in STATES)
    newest = 0 if fleet.newest is None else fleet.newest.version
    behind = [one for one in alive if newest and not one.report.is_starting and one.report.policy_version != newest]
    yield QueueMetric.ANNOUNCED_VERSION, (), float(fleet.versions[0].version if fleet.versions else 0)
    yield QueueMetric.WORKERS_BEHIND, (), float(len(behind))
    yield QueueMetric.WORKERS_REFUSING, (), float(sum(map(is_refusing, alive)))
    yield QueueMetric.CONVERGENCE, (), fleet.newest.active_s_ago if fleet.newest is not None and behind else 0.0


def state_of(worker: FleetWorker) -> str:
    """One of `STATES`."""
    if worker.presence is Presence.LATE:
        return LATE
    return worker.report.state if worker.report.state in STATES[:-2] else OTHER
