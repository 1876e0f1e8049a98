"""What the doctor sees of a healthy queue, and of one with a fault."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from typer.testing import CliRunner, Result

from rollstream.producer.cli.app import app
from rollstream.producer.doctor.seen import ConsumerSeen, NodeSeen, PartitionSeen, Probe
from rollstream.producer.operations.queue_state import QueueSeen, WorkerSeen
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.transport.acl import Role

HEALTHY_QUEUE = QueueSeen(partition=0, entries=9, waiting=2, pending=1, oldest_waiting_s=3.0, dead_letters=0)
HEALTHY_PARTITION = PartitionSeen(
    queue=HEALTHY_QUEUE,
    group=True,
    consumers=(ConsumerSeen(name="w", pending=1), ConsumerSeen(name="gone", pending=0)),
    stranded=0,
)
NOTHING_WAITS = {"waiting": 0, "oldest_waiting_s": None}
HEALTHY_INFO = {
    "redis_version": "7.0.15",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "maxmemory": "1000",
    "used_memory": "10",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
}
HEALTHY = Probe(
    url="redis://x",
    policy="p",
    nodes=(NodeSeen(name="", info=HEALTHY_INFO, appendfsync="everysec"),),
    round_trips_s=(0.001,),
    clock_ahead_s=0.01,
    role=Role.OPERATOR,
    user="",
    refused_rights={},
    wrong_types={},
    partitions=(HEALTHY_PARTITION,),
    beyond=(),
    workers=(WorkerSeen(consumer="w", report=WorkerReport(model="m", policy_version=1, lease_s=30.0), seen_s_ago=1.0),),
    newest_version=1,
    paused=False,
    paused_s_ago=None,
    lease_s=30.0,
    lease_agreed=30.0,
    lease_problem="",
    batches=(),
    no_version="",
    refusals=(),
)


def info(**changes: str) -> Probe:
    return replace(HEALTHY, nodes=(NodeSeen(name="", info=HEALTHY_INFO | changes, appendfsync="everysec"),))


def appendfsync(policy: str) -> Probe:
    return replace(HEALTHY, nodes=(NodeSeen(name="", info=HEALTHY_INFO, appendfsync=policy),))


def partition(queue: dict[str, Any] | None = None, **changes: Any) -> Probe:
    seen = replace(HEALTHY_PARTITION, queue=replace(HEALTHY_QUEUE, **queue or {}), **changes)
    return replace(HEALTHY, partitions=(seen,))


def worker(consumer: str, **fields: str) -> WorkerSeen:
    told = {"model": "m", "policy_version": "1"} | fields
    return WorkerSeen(
        consumer=consumer,
        report=WorkerReport.of({name.encode(): value.encode() for name, value in told.items()}),
        seen_s_ago=1.0,
    )


def doctor(redis_url: str, policy: str, *args: str) -> Result:
    env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}
    return CliRunner(env=env).invoke(app, ["doctor", *args])
