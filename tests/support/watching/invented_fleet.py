"""A fleet as a reading would tell it, without Redis, and a server that shows it:
`python -m tests.support.watching.invented_fleet PORT`.
"""

# ruff: noqa: T201 - a command whose output is read by a person

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from typing import Any

from rollstream.producer.http.sockets import known_hosts, open_socket
from rollstream.producer.observe.fleet import (
    Fleet,
    FleetBatch,
    FleetLetter,
    FleetVersion,
    FleetWorker,
    Presence,
)
from rollstream.producer.observe.web.live_readings import LiveReadings, ReadsFleet
from rollstream.producer.observe.web.serve import run
from rollstream.producer.observe.web.site import Site
from rollstream.producer.operations.queue_state import QueueSeen
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from rollstream.schemas.hashes.history import Minute, Rate
from rollstream.schemas.hashes.worker_report import WorkerReport
from tests.support.watching.fleets import backlog_lasting

WORKERS = (
    FleetWorker(
        consumer="gpu-1",
        presence=Presence.LIVE,
        seen_s_ago=0.4,
        report=WorkerReport(
            state="serving", engine="vllm", model="qwen2.5-1.5b", policy_version=7, newest_version=7,
            running_sequences=180, max_sequences=256, tokens_per_s=11_000.0, heartbeat_s=1.0,
        ),
    ),
    FleetWorker(
        consumer="gpu-2",
        presence=Presence.LATE,
        seen_s_ago=4.2,
        report=WorkerReport(
            state="paused", paused_for=("policy",), engine="vllm", model="qwen2.5-1.5b", policy_version=6,
            newest_version=7, policy_error="layers.0: another shape", running_sequences=3, max_sequences=256,
            tokens_per_s=900.0, heartbeat_s=1.0,
        ),
    ),
    FleetWorker(consumer="gpu-3", presence=Presence.GONE, seen_s_ago=40.0, report=WorkerReport(state="serving")),
    FleetWorker(
        consumer="gpu-4", presence=Presence.LIVE, seen_s_ago=0.1, report=WorkerReport(state="starting", engine="vllm")
    ),
)  # fmt: skip


def invented_fleet(policy: str = "math-7b") -> Fleet:
    """A fleet with one of everything; its hour goes up to now."""
    now = time.time()
    minute = int(now // 60)
    minutes = tuple(
        (
            minute - ago,
            Minute(
                groups=100 + ago, sequences=800 + 8 * ago, tokens=700_000 + 5_000 * (ago % 7), asked=1_000_000,
                staleness={0: 80, 1: 15 + ago, 2: 5}, errors={"too_long": 2} if ago % 5 == 0 else {},
            ),
        )
        for ago in range(59, -1, -1)
    )  # fmt: skip
    return Fleet(
        policy=policy,
        read_at=now,
        paused=False,
        paused_s_ago=None,
        queues=(
            QueueSeen(partition=0, entries=9, waiting=5, pending=4, oldest_waiting_s=12.0, dead_letters=1),
            QueueSeen(partition=1, entries=2, waiting=0, pending=2, oldest_waiting_s=None, dead_letters=0),
        ),
        open_groups=88,
        open_tokens=360_448,
        backlog=backlog_lasting(31.0),
        rate=Rate(tokens_per_s=11_500.0, mean_length=410.0, answers=1000, share=0.4),
        minutes=minutes,
        workers=WORKERS,
        versions=(
            FleetVersion(
                version=7, source="checkpoint", location="/ckpt/step-7", announced_s_ago=45.0, served_by=("gpu-1",),
                refused_by=("gpu-2",),
            ),
            FleetVersion(
                version=6, source="checkpoint", location="/ckpt/step-6", announced_s_ago=345.0, served_by=("gpu-2",),
                refused_by=(),
            ),
        ),
        batches=(
            FleetBatch(batch_id="step-8", submitted_s_ago=8.0, groups=128, done=40, cancelled=False, left_s=17.0),
            FleetBatch(batch_id="step-7", submitted_s_ago=70.0, groups=128, done=128, cancelled=False, left_s=None),
            FleetBatch(batch_id="eval-3", submitted_s_ago=90.0, groups=64, done=64, cancelled=True, left_s=None),
        ),
        num_batches=3,
        letters=(
            FleetLetter(
                partition=0, letter_id="1700000000000-0", batch_id="step-5", error="too_many_deliveries: gave up",
                buried_s_ago=600.0, deliveries=4,
            ),
        ),
        num_letters=1,
        redis_memory=300 * 2**20,
        redis_memory_limit=2**30,
        commands=14,
        took_s=0.012,
    )  # fmt: skip


class InventedReader:
    """Reads nothing; counts how often it was asked."""

    def __init__(self, fleet: Fleet | None = None) -> None:
        self.fleet = fleet or invented_fleet()
        self.reads = 0

    async def read(self) -> Fleet:
        self.reads += 1
        return replace(self.fleet, read_at=time.time())


def invented_site(*, port: int, reader: ReadsFleet | None = None, **changes: Any) -> Site:
    """A site of this machine alone whose Redis is away; `changes` of any field of `Site`."""
    site = Site(
        connection=Connection(access="redis://127.0.0.1:1/0", reconnect_s=0),
        keys=Keys("math-7b", partitions=2),
        readings=LiveReadings(reader=reader or InventedReader()),
        token=None,
        hosts=known_hosts("127.0.0.1", "127.0.0.1"),
        allow_actions=False,
        cookie=f"rollstream-{port}",
    )
    return replace(site, **changes)


async def _serve(port: int) -> int:
    listening = open_socket("127.0.0.1", port)
    port = listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    return await run(invented_site(port=port), listening, lambda _server: print(url, flush=True))


if __name__ == "__main__":
    sys.exit(asyncio.run(_serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0)))
