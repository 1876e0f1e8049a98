"""A version that waits for the fleet is activated once enough workers have prepared it, or when its time is up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.wire.policies import Activate
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.operations.heartbeat import Heartbeat
from rollstream.worker.versions.activator import Activator
from rollstream.worker.versions.fleet import live_reports, share_reached
from rollstream.worker.versions.follower import VersionFollower
from tests.support.faults import Queue
from tests.support.weights.versions import BY_HAND, announce_step, follower_of, write_steps
from tests.support.worker_process import until_true


def says(prepared: int | None, served: int = 6, state: str = "serving") -> WorkerReport:
    return WorkerReport(state=state, prepared_version=prepared, policy_version=served)


@pytest.mark.parametrize(
    ("reports", "share", "reached"),
    [
        ([], 0.5, False),
        ([says(7)], 1.0, True),
        ([says(6)], 1.0, False),
        ([says(7), says(6)], 1.0, False),
        ([says(7), says(6)], 0.5, True),
        ([says(7), says(7), says(6)], 0.67, False),
        ([says(7), says(7), says(6)], 2 / 3, True),
        ([says(7), says(8)], 1.0, False),
        ([says(8, served=7)], 1.0, True),
        ([says(7, state="paused"), says(6, state="starting"), says(6, state="draining")], 1.0, True),
        ([says(7), says(None, state="serving")], 1.0, False),
        ([says(6)], 0.001, False),
        ([says(7), *[says(6)] * 9], 0.1, True),
        ([*[says(7)] * 3, *[says(6)] * 7], 0.3, True),
    ],
)
def test_a_share_counts_the_live_workers_that_take_jobs(
    reports: list[WorkerReport], share: float, reached: bool
) -> None:
    assert share_reached(reports, 7, share) == reached


async def beat(redis: Redis, keys: Keys, name: str, report: WorkerReport) -> None:
    await Heartbeat(redis=redis, keys=keys, consumer=name, interval_s=1, report=lambda: report).beat()


async def test_a_worker_that_is_late_or_gone_does_not_count(redis: Redis, policy: str) -> None:
    keys = Keys(policy)
    for name, prepared in (("late", 1), ("gone", 2), ("here", 3), ("also", 4)):
        await beat(redis, keys, name, says(prepared))
    now = await redis.zscore(keys.workers(), "here")
    assert now is not None
    await redis.zadd(keys.workers(), {"late": now - 5})
    await redis.delete(keys.worker("gone"))

    found = await live_reports(redis, keys)

    assert sorted(report.prepared_version or 0 for report in found) == [3, 4]


@pytest.fixture
def followed(redis: Redis, queue: Queue, tmp_path: Path) -> VersionFollower:
    engine = StubEngine(WorkerSettings(policy="p", engine="stub"))
    return follower_of(redis, queue, engine, write_steps(tmp_path, 1, 2))


@pytest.fixture
def activator(redis: Redis, queue: Queue, followed: VersionFollower) -> Activator:
    return Activator(redis=redis, keys=queue.keys, consumer="here", follower=followed)


async def activated(redis: Redis, keys: Keys) -> list[bytes]:
    entries: Any = await redis.xrange(keys.activations())
    return [entry_id for entry_id, _ in entries]


async def test_whose_preparation_completes_the_share_activates(
    redis: Redis, queue: Queue, tmp_path: Path, followed: VersionFollower, activator: Activator
) -> None:
    announce_step(queue, tmp_path, 1, Activate(when="when_prepared"))
    announce_step(queue, tmp_path, 2, BY_HAND, step=1)
    await followed.begin()
    await beat(redis, queue.keys, "other", says(1))
    await beat(redis, queue.keys, "here", says(1))
    await activator.look()
    assert await activated(redis, queue.keys) == [], "it has not prepared it itself"

    queue.redis.xdel(queue.keys.versions(), "2-0")
    running = asyncio.create_task(followed.run())
    await until_true(lambda: followed.prepared == 1)
    await beat(redis, queue.keys, "other", says(0))
    await activator.look()
    assert await activated(redis, queue.keys) == [], "the other has not prepared it"
    await beat(redis, queue.keys, "other", says(1))
    await activator.look()
    assert await activated(redis, queue.keys) == [b"1-0"]
    await until_true(lambda: followed.serving.version == 1)
    running.cancel()
    await asyncio.wait([running])


async def test_any_worker_activates_when_the_time_is_up(
    redis: Redis,
    queue: Queue,
    tmp_path: Path,
    followed: VersionFollower,
    activator: Activator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("rollstream.worker.versions.activator.time.monotonic", lambda: now)
    announce_step(queue, tmp_path, 1, Activate(when="when_prepared", timeout_s=60))
    announce_step(queue, tmp_path, 2, Activate(when="when_prepared"), step=1)
    await followed.begin()
    await activator.look()
    now = 159.0
    await activator.look()
    assert await activated(redis, queue.keys) == []

    now = 160.0
    await activator.look()

    assert await activated(redis, queue.keys) == [b"1-0"]
