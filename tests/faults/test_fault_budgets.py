"""What the network did to a job is not held against it; what the job did to its workers is."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import Client, GroupError, GroupResult
from rollstream.schemas import Keys
from rollstream.worker.delivery.delivery_budgets import Budgets, DeliveryBudgets, why_given_up
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.errors import DataError
from rollstream.worker.measure.measures import Measures
from tests.support.fault_steps import (
    is_of,
    log_of,
    stub,
    stub_flags,
    stubs,
    tokens,
    wait_until_done,
    wait_until_held,
)
from tests.support.faults import Link, Queue, audit
from tests.support.worker_process import WorkerProcess, wait_for

POISON = 13
BUDGETS = Budgets(deliveries=3, interruptions=5)


@pytest.mark.parametrize(
    ("earlier", "interrupted", "blamed"),
    [
        (0, 0, None),
        (2, 0, None),
        (3, 0, "--max-deliveries 3"),
        (3, 1, None),
        (4, 1, "--max-deliveries 3"),
        (4, 4, None),
        (5, 5, "--max-interruptions 5"),
        (6, 4, None),
        (7, 4, "--max-deliveries 3"),
        (7, 5, "--max-interruptions 5"),
        (8, 5, "--max-deliveries 3"),
    ],
)
def test_crashes_and_interruptions_are_counted_apart(earlier: int, interrupted: int, blamed: str | None) -> None:
    problem = why_given_up(BUDGETS, earlier, interrupted)

    assert (problem is None) is (blamed is None)
    if problem is not None and blamed is not None:
        assert blamed in problem
        assert f"{earlier - interrupted} whose worker died, {interrupted} whose worker lived on" in problem
        assert "requeue" in problem
        assert len(problem) < 400


def lease(delivery: int) -> Lease:
    return Lease(jobs_key="jobs", dead_key="dead", entry_id="1-0", consumer="w1", delivery=delivery, ends_at=0.0)


async def test_only_excused_deliveries_of_this_entry_are_interruptions(redis: Redis, policy: str) -> None:
    deliveries, ledger = (
        DeliveryBudgets(redis=redis, keys=Keys(policy), budgets=BUDGETS, measures=Measures()),
        Keys(policy).ledger("b"),
    )
    await redis.hset(ledger, mapping={"digest": "x", "lived:2-0:1": "w1", "lived:2-0:2": "w1"})
    await deliveries.check(lease(3), "b")

    with pytest.raises(DataError, match="3 whose worker died, 0 whose"):
        await deliveries.check(lease(4), "b")
    await deliveries.excuse(lease(2), "b")
    await deliveries.excuse(lease(2), "b")
    await deliveries.check(lease(4), "b")
    with pytest.raises(DataError, match="3 whose worker died, 1 whose"):
        await deliveries.check(lease(5), "b")


async def test_no_number_of_deliveries_is_too_large_to_be_counted(redis: Redis, policy: str) -> None:
    with pytest.raises(DataError, match="--max-deliveries 3"):
        await DeliveryBudgets(redis=redis, keys=Keys(policy), budgets=BUDGETS, measures=Measures()).check(
            lease(2**31), "b"
        )


async def test_a_ledger_that_expired_is_not_made_again(redis: Redis, policy: str) -> None:
    await DeliveryBudgets(redis=redis, keys=Keys(policy), budgets=BUDGETS, measures=Measures()).excuse(lease(1), "b")

    assert await redis.exists(Keys(policy).ledger("b")) == 0


def test_a_job_that_outages_interrupt_more_often_than_crashes_may_is_answered(
    policy: str, redis_url: str, client: Client, queue: Queue, link: Link
) -> None:
    lease_s = 2.0
    with stub(link.url, policy, "--max-deliveries", "1", group_s=3 * lease_s, lease_s=lease_s) as worker:
        batch = client.submit([[5]], None, tokens())
        wait_for(lambda: running_groups(queue) == 1, 30, lambda: worker.log)
        for outage, (away, back) in enumerate([(link.freeze, link.thaw), (link.drop, link.restore)], start=1):
            away()
            wait_for(lambda n=outage: worker.log.count("lease ran out") == n, 30, lambda: worker.log)  # type: ignore[misc] # default
            # The worker's clock is early: back before Redis' is there, it would go on with the delivery that it has.
            wait_for(lambda: queue.idle_s() > lease_s, 30, lambda: worker.log)
            back()
            wait_for(lambda n=outage: worker.log.count("job taken over") == n, 30, lambda: worker.log)  # type: ignore[misc] # default
        wait_until_done(queue, batch.batch_id, 1, worker)

    (answer,) = audit(redis_url, policy, batch.batch_id, 1)
    assert isinstance(answer, GroupResult)
    assert answer.delivery == 3
    assert queue.dead() == []


def running_groups(queue: Queue) -> int:
    """How many groups run, by the report of the only worker."""
    (key,) = queue.redis.scan_iter(queue.keys.worker("*"))
    running: Any = queue.redis.hget(key, "running_groups")
    return int(running or 0)


def test_interruptions_have_an_end_too(policy: str, redis_url: str, client: Client, queue: Queue, link: Link) -> None:
    flags = ("--max-deliveries", "1", "--max-interruptions", "1")
    with stub(link.url, policy, *flags, group_s=60.0) as worker:
        batch = client.submit([[5]], None, tokens())
        wait_for(lambda: running_groups(queue) == 1, 30, lambda: worker.log)
        link.freeze()
        wait_for(lambda: "lease ran out" in worker.log, 30, lambda: worker.log)
        link.thaw()
        wait_until_done(queue, batch.batch_id, 1, worker)

    (answer,) = audit(redis_url, policy, batch.batch_id, 1)
    assert isinstance(answer, GroupError)
    assert (answer.code, "--max-interruptions 1" in answer.message) == ("too_many_deliveries", True)
    ((letter, _),) = queue.dead()
    assert "0 whose worker died, 1 whose worker lived on" in letter.error


def test_a_poison_job_kills_as_many_workers_as_it_may_and_is_a_dead_letter(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    flags = ["--max-deliveries", "2", "--stub-poison-token", str(POISON), *stub_flags()]
    with stubs(redis_url, policy, *flags, count=3) as workers:
        batch = client.submit([[5], [POISON]], None, tokens())
        ((entry_id, fields),) = queue.entries()
        wait_until_done(queue, batch.batch_id, 2, *workers)
        killed = [worker.process.wait(10) for worker in workers if died(worker)]

        answers = audit(redis_url, policy, batch.batch_id, 2)

    assert killed == [70, 70]
    assert isinstance(answers[1], GroupError)
    assert answers[1].code == "too_many_deliveries"
    ((letter, payload),) = queue.dead()
    assert (letter.entry_id, letter.deliveries, payload) == (entry_id, 3, fields[b"payload"])
    assert "2 whose worker died, 0 whose worker lived on" in letter.error


def test_jobs_that_share_a_worker_with_a_poison_job_are_not_given_up_with_it(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    flags = ["--max-deliveries", "2", "--stub-poison-token", str(POISON), *stub_flags(group_s=0.3)]
    innocents = [[5 + row] for row in range(4)]
    with stubs(redis_url, policy, *flags, count=3) as workers:
        batch = client.submit([*innocents, [POISON]], None, tokens(), prompts_per_job=1)
        wait_until_done(queue, batch.batch_id, 5, *workers)
        answers = audit(redis_url, policy, batch.batch_id, 5)

    assert [isinstance(answer, GroupError) for answer in answers] == [False] * 4 + [True]


def died(worker: WorkerProcess) -> bool:
    return worker.process.poll() is not None


def test_a_worker_that_was_stopped_excuses_its_job_when_it_wakes(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, group_s=0.5) as stopped:
        batch = client.submit([[5]], None, tokens())
        ((entry_id, _),) = queue.entries()
        wait_until_held(stopped, queue)
        os.kill(stopped.process.pid, signal.SIGSTOP)
        with stub(redis_url, policy) as rescuer:
            wait_until_done(queue, batch.batch_id, 1, stopped, rescuer)
        os.kill(stopped.process.pid, signal.SIGCONT)
        ledger, field = queue.keys.ledger(batch.batch_id), f"lived:{entry_id}:1"
        wait_for(lambda: bool(queue.redis.hexists(ledger, field)), 30, lambda: log_of(stopped))

        consumer: Any = queue.redis.hget(ledger, field)
        remaining: Any = queue.redis.ttl(ledger)
        assert is_of(consumer.decode(), stopped)
        assert remaining > 0
