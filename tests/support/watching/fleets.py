"""Readings of a fleet made by hand, for tests of what is shown of them."""

from __future__ import annotations

from typing import Any

from rollstream.producer.observe.backlog import Backlog
from rollstream.producer.observe.fleet import Fleet, FleetBatch, FleetLetter, FleetVersion, FleetWorker, Presence
from rollstream.producer.operations.queue_state import QueueSeen
from rollstream.schemas.hashes.history import Minute, Rate
from rollstream.schemas.hashes.worker_report import WorkerReport

READ_AT = 1_800_000_030.0


def fleet_of(**changes: Any) -> Fleet:
    """A policy that nobody uses, with changes."""
    fields: dict[str, Any] = {
        "policy": "math-7b",
        "read_at": READ_AT,
        "paused": False,
        "paused_s_ago": None,
        "queues": (queue_of(),),
        "open_groups": 0,
        "open_tokens": 0,
        "backlog": None,
        "rate": Rate(),
        "minutes": (),
        "workers": (),
        "versions": (),
        "batches": (),
        "num_batches": 0,
        "letters": (),
        "num_letters": 0,
        "redis_memory": None,
        "redis_memory_limit": None,
        "commands": 31,
        "took_s": 0.012,
    }
    return Fleet(**fields | changes)


def backlog_lasting(seconds: float, **changes: Any) -> Backlog:
    """A measured backlog of one worker that takes so long."""
    fields: dict[str, Any] = {
        "backlog_seconds": seconds,
        "worker_seconds": seconds,
        "queued_tokens": round(100 * seconds),
        "asked_tokens": round(200 * seconds),
        "tokens_per_second_per_worker": 100.0,
        "measured": True,
        "workers": 1,
        "open_groups": 3,
        "waiting_jobs": 2,
        "pending_jobs": 1,
    }
    return Backlog(**fields | changes)


def queue_of(partition: int = 0, **changes: Any) -> QueueSeen:
    fields = {"entries": 0, "waiting": 0, "pending": 0, "oldest_waiting_s": None, "dead_letters": 0}
    return QueueSeen(partition=partition, **{**fields, **changes})


def worker_of(name: str = "gpu-7-4711-a3f9c1", presence: Presence = Presence.LIVE, **report: Any) -> FleetWorker:
    """A worker that serves, with changes of its report."""
    told: dict[str, Any] = {
        "state": "serving",
        "engine": "vllm",
        "model": "/models/Qwen2.5-7B-Instruct",
        "policy_version": 7,
        "newest_version": 7,
        "running_groups": 30,
        "running_sequences": 120,
        "max_sequences": 256,
        "tokens_per_s": 3_456.0,
        "groups_published": 12_345,
        "tokens_generated": 6_789_012,
    }
    seen = {Presence.LIVE: 0.4, Presence.LATE: 3.2, Presence.GONE: 41.0}[presence]
    return FleetWorker(consumer=name, presence=presence, seen_s_ago=seen, report=WorkerReport(**told | report))


def batch_of(batch_id: str = "step-41", groups: int = 64, done: int = 40, **changes: Any) -> FleetBatch:
    fields: dict[str, Any] = {"submitted_s_ago": 75.0, "cancelled": False, "left_s": 45.0}
    return FleetBatch(batch_id=batch_id, groups=groups, done=done, **fields | changes)


def letter_of(error: str = "TooManyDeliveriesError: given up after 3 deliveries", **changes: Any) -> FleetLetter:
    fields = {"letter_id": "1799999990000-0", "batch_id": "step-40", "buried_s_ago": 40.0, "deliveries": 3}
    return FleetLetter(**{"partition": 0, "error": error, **fields, **changes})


def version_of(version: int = 7, **changes: Any) -> FleetVersion:
    fields = {"source": "checkpoint", "location": f"step-{version}", "announced_s_ago": 95.0}
    return FleetVersion(**{"version": version, "served_by": (), "refused_by": (), **fields, **changes})


def busy_fleet(workers: int = 6, batches: int = 5, **changes: Any) -> Fleet:
    """A fleet in which something of everything goes on."""
    presences = (Presence.LIVE, Presence.LIVE, Presence.LIVE, Presence.LATE, Presence.GONE)
    states: tuple[dict[str, Any], ...] = (
        {}, {"loading_version": 8}, {"state": "paused", "paused_for": ("memory", "adapter cache")}, {}, {},
        {"state": "starting", "policy_version": None, "tokens_per_s": None},
    )  # fmt: skip
    who = tuple(worker_of(f"gpu-{i}-4711-a3f9c{i}", presences[i % 5], **states[i % 6]) for i in range(workers))
    last = int(READ_AT // 60)
    minutes = tuple(
        (
            number,
            Minute(
                groups=100,
                sequences=800,
                tokens=60 * (9000 + 150 * (number % 17)),
                staleness={0: 60, 1: 30, 3: 6, 5: 3, 20: 1},
                errors={"too_long": 2, "engine_refused": 1} if number % 9 == 0 else {},
            ),
        )
        for number in range(last - 50, last + 1)
    )
    fields: dict[str, Any] = {
        "queues": tuple(queue_of(p, entries=900, waiting=12 * p, pending=4, oldest_waiting_s=34.0) for p in range(2)),
        "workers": who,
        "batches": tuple(
            batch_of(f"step-{40 + i}", done=7 * (i % 9), submitted_s_ago=30.0 * i) for i in range(batches)
        ),
        "num_batches": batches + 12,
        "minutes": minutes,
        "versions": (version_of(8, served_by=("a",), refused_by=("b", "c")), version_of(7, served_by=("d",) * 4)),
        "letters": (letter_of(), letter_of(partition=1, batch_id="")),
        "num_letters": 14,
        "open_groups": 480,
        "backlog": backlog_lasting(187.0),
        "redis_memory": 812 * 2**20,
        "redis_memory_limit": 2**30,
    }
    return fleet_of(**fields | changes)
