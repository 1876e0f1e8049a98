"""Each delivery of a job, each group and each lease is counted once, by what became of it."""

from __future__ import annotations

import os
import signal
from typing import Any, cast

from rollstream import AsyncClient, Client
from rollstream.transport.traces.names import Outcome
from tests.support.fault_steps import kill, stub, tokens, wait_until_done, wait_until_held
from tests.support.faults import Queue
from tests.support.processes.counting_worker import BIG, ONE, only_lease, runs, serving
from tests.support.watching.scraping import scraped, wait_until_counted
from tests.support.weights.versions import wait_until_parked, wait_until_reported
from tests.support.worker_process import until_true, wait_for

LEASE_S = 2.0
"""A worker may stand still for a second on a busy machine without losing a lease that no test takes from it."""
METRICS = ("--metrics-port", "auto")
JOBS, GROUPS = "rollstream_jobs_total", "rollstream_groups_total"
REDELIVERIES = "rollstream_redeliveries_total"


def test_a_dead_workers_job_is_a_redelivery_after_a_crash(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, group_s=60.0) as first:
        batch = client.submit([[5], [6]], None, tokens())
        wait_until_held(first, queue)
        kill(first)
    with stub(redis_url, policy, *METRICS) as second:
        wait_until_done(queue, batch.batch_id, 2, second)
        wait_until_counted(second, queue, JOBS, answered=1)
        seen = wait_until_counted(second, queue, REDELIVERIES, crash=1)

    assert seen.value("rollstream_queue_wait_seconds_count") == 0, "only a first delivery has waited in the queue"


def test_what_a_frozen_worker_sends_too_late_is_fenced(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, *METRICS, group_s=60.0, lease_s=LEASE_S) as frozen:
        batch = client.submit([[5], [6]], None, tokens())
        wait_until_reported(frozen, queue, running_groups="2")  # a group that has not begun is not fenced
        os.kill(frozen.process.pid, signal.SIGSTOP)
        with stub(redis_url, policy, lease_s=LEASE_S) as second:
            wait_until_done(queue, batch.batch_id, 2, second)
        os.kill(frozen.process.pid, signal.SIGCONT)
        wait_until_counted(frozen, queue, JOBS, left=1)
        seen = wait_until_counted(frozen, queue, GROUPS, fenced=2)

    assert seen.value("rollstream_leases_lost_total") == 1
    assert seen.value("rollstream_tokens_total") == 0


async def test_a_job_whose_worker_lived_is_a_redelivery_after_an_interruption(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, lease_s=LEASE_S) as (worker, engine):
        measures = worker._measures
        engine.gate.clear()
        batch = await trainer.submit([[BIG]], None, ONE)
        await runs(engine, 1)
        worker._leases._lose(only_lease(worker))
        await until_true(lambda: measures.redeliveries["interruption"] == 1)
        engine.gate.set()
        await batch.wait(timeout=30)
        await until_true(lambda: measures.jobs[Outcome.ANSWERED] == 1)

    assert {outcome: jobs for outcome, jobs in measures.jobs.items() if jobs} == {"left": 1, "answered": 1}
    assert measures.redeliveries == {"crash": 0, "interruption": 1}
    assert measures.groups == {"result": 1, "error": 0, "duplicate": 0, "fenced": 1, "cut": 0}
    assert measures.leases_lost == 1


def test_leases_that_are_renewed_are_counted(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    with stub(redis_url, policy, *METRICS, group_s=60.0, lease_s=1.0) as worker:
        client.submit([[5]], None, tokens())
        wait_until_held(worker, queue)
        wait_for(
            lambda: (scraped(worker, queue).value("rollstream_lease_renewals_total") or 0) > 1, 30, lambda: worker.log
        )
        assert scraped(worker, queue).value("rollstream_held_jobs") == 1
        worker.end()


def test_a_job_for_a_later_version_is_parked(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    with stub(redis_url, policy, *METRICS, lease_s=30.0) as worker:
        client.submit([[5]], None, tokens(), min_policy_version=3)
        wait_until_parked(worker, queue, 3)
        wait_until_counted(worker, queue, JOBS, parked=1)


def test_a_job_that_nobody_can_read_is_dead(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    queue.redis.xadd(queue.jobs_key, {"payload": b"no job"})
    with stub(redis_url, policy, *METRICS) as worker:
        wait_until_counted(worker, queue, JOBS, dead=1)
        batch = client.submit([[5]], None, tokens())
        (_, fields) = queue.entries()[-1]
        queue.redis.xadd(queue.jobs_key, cast("Any", {**fields, b"payload": b"\xc1"}))
        wait_until_done(queue, batch.batch_id, 1, worker)
        wait_until_counted(worker, queue, JOBS, dead=2, answered=1)


async def test_a_drain_counts_what_it_gives_back(redis_url: str, policy: str, trainer: AsyncClient) -> None:
    async with serving(redis_url, policy) as (worker, engine):
        engine.gate.clear()
        await trainer.submit([[BIG]] * 2, None, ONE, prompts_per_job=1)
        await runs(engine, 2)
        worker._begin_drain()
        await until_true(lambda: worker._measures.jobs[Outcome.GIVEN_BACK] == 2)

    assert sum(worker._measures.jobs.values()) == 2
