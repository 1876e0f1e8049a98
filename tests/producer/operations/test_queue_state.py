"""`rollstream status` tells parked jobs from running ones, and why a version is refused."""

from __future__ import annotations

import json

import pytest

from rollstream import Client, GenerationConfig
from rollstream.producer.operations.queue_state import QueueSeen, QueueState, WorkerSeen, remarks
from rollstream.producer.policies.parked import Parked
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.keys import GROUP
from rollstream.schemas.parked import ParkedFor
from tests.support.command_line import Command
from tests.support.faults import Queue
from tests.support.weights.publishing import reporting

CONFIG = GenerationConfig(max_new_tokens=2)


@pytest.fixture
def command(redis_url: str, policy: str) -> Command:
    return Command(redis_url, policy)


def park(queue: Queue, client: Client, version: int, jobs: int, batch_id: str) -> None:
    """Park jobs as a worker does that serves an older version."""
    client.submit([[1]] * jobs, None, CONFIG, batch_id=batch_id, prompts_per_job=1, min_policy_version=version)
    queue.redis.xreadgroup(GROUP, ParkedFor(version).consumer, {queue.jobs_key: ">"})


def test_parked_jobs_are_counted_and_the_versions_named(command: Command, client: Client, queue: Queue) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, "0", mkstream=True)
    park(queue, client, 8, 2, "b")
    park(queue, client, 1000, 1, "c")
    client.submit([[1]], None, CONFIG)
    queue.redis.xreadgroup(GROUP, "w", {queue.jobs_key: ">"})
    (row,) = json.loads(command("status", "--json").stdout)["queues"]
    assert (row["pending"], [(one["version"], one["jobs"], one["oldest_batch"]) for one in row["parked"]]) == (
        4, [(8, 2, "b"), (1000, 1, "c")],
    )  # fmt: skip
    shown = command("status").stdout
    assert "pending parked" in " ".join(shown.split())
    assert "parked: 2 jobs wait for policy version 8, the oldest, of batch b, for " in shown
    assert "parked: 1 jobs wait for policy version 1000" in shown
    assert "1 running, 3 parked" in command("pause").stdout
    queue.redis.xack(queue.jobs_key, GROUP, *(entry_id for entry_id, _ in queue.entries()))
    assert json.loads(command("status", "--json").stdout)["queues"][0]["parked"] == []
    assert "parked:" not in command("status").stdout


def test_the_reason_of_a_refusal_stands_below_the_table(command: Command, queue: Queue) -> None:
    why = f"checkpoint step-8: {'a long reason that no column of a table has room for, ' * 3}half-written\x1b[2J"
    for worker in ("v", "w"):
        reporting(queue, worker, 7, newest_version="8", policy_error=why)
    reporting(queue, "u", 7, newest_version="8", policy_error="")
    done = command("status")
    lines: list[str] = [line for line in done.stdout.splitlines() if line.startswith("version 8 refused")]
    assert lines == [f"version 8 refused by v, w: {why}".replace("\x1b", "\\x1b")]
    assert "7 (8 refused)" in done.stdout


def test_what_several_partitions_hold_for_one_version_is_one_line() -> None:
    def part(partition: int, *parked: Parked) -> QueueSeen:
        return QueueSeen(
            partition=partition, entries=9, waiting=0, pending=3, oldest_waiting_s=None, dead_letters=0, parked=parked
        )

    queues = [
        part(
            0,
            Parked(version=8, jobs=2, oldest_s=5.0, oldest_batch="young"),
            Parked(version=9, jobs=1, oldest_s=1.0, oldest_batch="x"),
        ),
        part(1, Parked(version=8, jobs=1, oldest_s=70.0, oldest_batch="old")),
    ]
    workers: list[WorkerSeen] = [
        WorkerSeen(consumer="v", report=WorkerReport(), seen_s_ago=1.0),
    ]
    assert list(remarks(QueueState(policy="p", paused=False, paused_s_ago=None, queues=queues, workers=workers))) == [
        "parked: 3 jobs wait for policy version 8, the oldest, of batch old, for 1 min 10 s",
        "parked: 1 jobs wait for policy version 9, the oldest, of batch x, for 1.0 s",
    ]


def test_groups_that_wait_in_workers_are_said(command: Command, queue: Queue) -> None:
    reporting(queue, "v", 0, waiting_groups="12")
    reporting(queue, "w", 0, waiting_groups="3")
    reporting(queue, "x", 0, waiting_groups="\x1b[2J")
    assert "15 groups of jobs that workers have read wait for places in their engines" in command("status").stdout
    reporting(queue, "v", 0, waiting_groups="0")
    reporting(queue, "w", 0, waiting_groups="0")
    assert "wait for places" not in command("status").stdout
