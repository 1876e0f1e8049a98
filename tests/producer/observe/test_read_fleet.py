"""A reading shows what a queue and its workers do, as Redis tells it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.producer.observe.fleet import Fleet, Presence
from rollstream.producer.observe.queue_metrics import samples
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.producer.operations import requests
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys, PolicyVersion, encode
from rollstream.schemas.metrics import QueueMetric
from tests.support.fault_steps import kill, stub, tokens
from tests.support.reports import report_of
from tests.support.worker_process import WorkerProcess, until

SHA = "0" * 64


def presences(fleet: Fleet) -> list[Presence]:
    return [worker.presence for worker in fleet.workers]


async def test_an_empty_policy_reads_as_empty(reader: FleetReader, policy: str) -> None:
    fleet = await reader.read()

    assert (fleet.policy, fleet.paused, fleet.paused_s_ago) == (policy, False, None)
    assert (fleet.workers, fleet.versions, fleet.batches, fleet.letters, fleet.minutes) == ((), (), (), (), ())
    assert (fleet.num_batches, fleet.num_letters, fleet.open_groups, fleet.open_tokens) == (0, 0, 0, 0)
    assert [(queue.entries, queue.waiting, queue.pending, queue.oldest_waiting_s) for queue in fleet.queues] == [
        (0, 0, 0, None)
    ]
    assert fleet.backlog_s == 0.0
    assert fleet.redis_memory
    assert fleet.redis_memory_limit == 0
    assert abs(fleet.read_at - time.time()) < 60
    assert fleet.problems == ()


async def test_jobs_that_wait_are_counted_with_their_age_and_tokens(reader: FleetReader, trainer: AsyncClient) -> None:
    await trainer.submit([[1], [2], [3]], None, tokens(7), batch_id="b", prompts_per_job=1)

    fleet = await reader.read()

    (queue,) = fleet.queues
    assert (queue.entries, queue.waiting, queue.pending) == (3, 3, 0)
    assert queue.oldest_waiting_s is not None
    assert (fleet.open_groups, fleet.open_tokens, fleet.backlog_s) == (3, 21, None)
    assert fleet.num_batches == 1
    (batch,) = fleet.batches
    assert (batch.batch_id, batch.groups, batch.done, batch.cancelled, batch.left_s) == ("b", 3, 0, False, None)
    assert batch.is_under_way
    await (await trainer.attach("b")).cancel()
    (batch,) = (await reader.read()).batches
    assert (batch.done, batch.cancelled, batch.left_s) == (3, True, 0.0)


async def test_a_worker_and_what_it_answers_are_seen(
    reader: FleetReader, trainer: AsyncClient, stub_worker: WorkerProcess
) -> None:
    handle = await trainer.submit([[1]] * 4, None, tokens(5))
    await handle.wait(timeout=30)

    async def counted() -> bool:
        return sum(sums.groups for _, sums in (await reader.read()).minutes) == 4

    await until(counted)
    fleet = await reader.read()

    (worker,) = fleet.workers
    assert (worker.presence, worker.report.engine, worker.report.state) == (Presence.LIVE, "stub", "serving")
    assert f"-{stub_worker.process.pid}-" in worker.consumer
    assert sum(sums.tokens for _, sums in fleet.minutes) == 20
    assert (fleet.open_groups, fleet.open_tokens, fleet.backlog_s) == (0, 0, 0.0)
    assert [(batch.done, batch.is_under_way) for batch in fleet.batches] == [(4, False)]
    (queue,) = fleet.queues
    assert (queue.entries, queue.waiting, queue.pending) == (1, 0, 0)


async def test_a_killed_worker_is_late_and_then_gone_with_its_last_report(
    redis_url: str, policy: str, reader: FleetReader
) -> None:
    with stub(redis_url, policy) as worker:
        alive = await reader.read()
        kill(worker)

        async def late() -> bool:
            return presences(await reader.read()) == [Presence.LATE]

        async def gone() -> bool:
            return presences(await reader.read()) == [Presence.GONE]

        await until(late)
        await until(gone)
        (last,) = (await reader.read()).workers
        (first,) = alive.workers
        stranger = await FleetReader(connection=reader._connection, keys=Keys(policy)).read()

    assert last.consumer == first.consumer
    assert (last.report.process, last.report.engine) == (first.report.process, "stub")
    assert last.seen_s_ago is not None
    assert last.seen_s_ago > 1
    assert [worker.report.engine for worker in stranger.workers] == [""]


async def test_a_worker_that_drained_is_not_shown(redis_url: str, policy: str, reader: FleetReader) -> None:
    with stub(redis_url, policy) as worker:
        assert presences(await reader.read()) == [Presence.LIVE]
        worker.terminate()

        assert (await reader.read()).workers == ()


async def test_versions_tell_who_serves_and_who_refused_them(
    reader: FleetReader, redis: Any, server: Any, keys: Keys
) -> None:
    for version in (1, 2):
        announced = PolicyVersion(
            version=version, source="checkpoint", location=f"step-{version}", sha256=SHA, published_at=time.time() - 9
        )
        await redis.xadd(keys.versions(), {b"payload": encode(announced)}, id=f"{version}-0")
    await redis.xadd(keys.versions(), {b"payload": b"\x1b[2J"}, id="3-0")
    report_of(server, keys, "old", {"policy_version": "1", "newest_version": "2", "policy_error": "not complete"})
    report_of(server, keys, "new", {"policy_version": "2", "newest_version": "2"})

    fleet = await reader.read()

    assert [(one.version, one.served_by, one.refused_by) for one in fleet.versions] == [
        (2, ("new",), ("old",)),
        (1, ("old",), ()),
    ]
    assert all(8 < one.announced_s_ago < 60 for one in fleet.versions)
    assert [problem for problem in fleet.problems if "entry 3-0" in problem] == list(fleet.problems)
    assert fleet.problems


async def test_a_version_that_was_passed_over_waits_for_nothing(
    reader: FleetReader, trainer: AsyncClient, models: Path
) -> None:
    for version, activate in ((1, "by_hand"), (2, "at_once"), (3, "by_hand")):
        await trainer.publish_policy(version, checkpoint=models / "step-1", activate=cast("Any", activate))

    fleet = await reader.read()

    assert [(one.version, one.waits_for) for one in fleet.versions] == [(3, "by_hand"), (2, ""), (1, "")]


async def test_versions_that_are_not_active_tell_who_has_prepared_them(
    reader: FleetReader, trainer: AsyncClient, models: Path, server: Any, keys: Keys
) -> None:
    for version, activate in ((1, "at_once"), (2, "by_hand"), (3, "when_prepared"), (4, "by_hand")):
        await trainer.publish_policy(version, checkpoint=models / "step-1", activate=cast("Any", activate))
    await trainer.activate(3)
    told = {"policy_version": "3", "newest_version": "3", "announced_version": "4"}
    report_of(server, keys, "ready", {**told, "prepared_version": "4"})
    report_of(server, keys, "cannot", {**told, "prepared_version": "3", "policy_error": "version 4, not active yet: x"})

    fleet = await reader.read()

    assert [(one.version, one.waits_for) for one in fleet.versions] == [(4, "by_hand"), (3, ""), (2, ""), (1, "")]
    assert fleet.newest == fleet.versions[1]
    assert (fleet.versions[0].prepared_by, fleet.versions[0].refused_by) == (("ready",), ("cannot",))
    assert fleet.versions[1].served_by == ("cannot", "ready")
    assert [one.activated_s_ago is None for one in fleet.versions] == [True, False, True, True]
    values = {(metric.name, labels): value for metric, labels, value in samples(fleet)}
    assert values[QueueMetric.ANNOUNCED_VERSION.name, ()] == 4
    assert values[QueueMetric.WORKERS_BEHIND.name, ()] == 0


async def test_a_pause_is_seen_with_its_age(reader: FleetReader, connection: Connection, keys: Keys) -> None:
    await requests.pause(connection, keys)

    fleet = await reader.read()

    assert fleet.paused
    assert fleet.paused_s_ago is not None
    assert fleet.paused_s_ago < 60


async def test_a_reading_costs_the_same_whatever_the_queue_holds(reader: FleetReader, trainer: AsyncClient) -> None:
    await reader.read()
    empty = await reader.read()
    config = GenerationConfig(max_new_tokens=3)
    await trainer.submit([[1]] * 300, None, config, prompts_per_job=1)
    await reader.read()

    full = await reader.read()

    assert full.queues[0].waiting == 300
    assert full.commands <= empty.commands + 1  # the ledger of the batch under way


@pytest.mark.keys_by_hand
async def test_parked_jobs_are_told_by_the_version_that_they_wait_for(
    redis_url: str, policy: str, reader: FleetReader, trainer: AsyncClient
) -> None:
    with stub(redis_url, policy):
        handle = await trainer.submit([[1]], None, tokens(1), min_policy_version=9, batch_id="waits")

        async def parked() -> bool:
            return (await reader.read()).queues[0].parked_jobs == 1

        await until(parked)
        (queue,) = (await reader.read()).queues
        await handle.cancel()

    assert [(one.version, one.jobs, one.oldest_batch) for one in queue.parked] == [(9, 1, "waits")]
    assert queue.waiting == 0


async def test_readings_follow_one_another_while_jobs_are_answered(
    reader: FleetReader, trainer: AsyncClient, stub_worker: WorkerProcess
) -> None:
    handle = await trainer.submit([[1]] * 64, None, tokens(4), prompts_per_job=4)
    waited = asyncio.ensure_future(handle.wait(timeout=30))

    seen = [(await reader.read()).batches[0].done]
    while not waited.done():
        seen.append((await reader.read()).batches[0].done)
        await asyncio.sleep(0)

    assert seen == sorted(seen)
    assert (await reader.read()).batches[0].done == 64
    assert stub_worker.process.poll() is None
