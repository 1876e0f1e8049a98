"""A lease is renewed, ends here before it ends in Redis, and a worker that lost it writes nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import cast

import pytest

from rollstream import Client
from tests.support.fault_steps import (
    LASTING_S,
    LEASE_S,
    SLACK_S,
    SWEEP_S,
    holds,
    is_of,
    kill,
    log_of,
    stub,
    stub_flags,
    stubs,
    tokens,
    wait_until_done,
    wait_until_drained,
    wait_until_held,
    wait_until_logged,
    wait_until_one_holds,
)
from tests.support.faults import Holder, Link, Queue, audit
from tests.support.worker_process import WorkerProcess, wait_for


def test_a_killed_workers_job_on_an_idle_queue_is_taken_over_and_resumed_where_it_stood(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stubs(redis_url, policy, *stub_flags(group_s=0.5, at_once=1)) as (one, two):
        batch = client.submit([[5 + row] for row in range(5)], None, tokens())
        first, second = wait_until_one_holds(one, two, queue)
        wait_until_done(queue, batch.batch_id, 2, first)
        killed_at = kill(first)
        answered = queue.done(batch.batch_id)
        wait_until_held(second, queue)
        took_s = time.monotonic() - killed_at
        wait_until_done(queue, batch.batch_id, 5, second)
        wait_until_drained(second)
        log = second.log

    answers = audit(redis_url, policy, batch.batch_id, 5)
    assert took_s < LEASE_S + SWEEP_S + SLACK_S
    assert [is_of(answer.worker, first) for answer in answers] == [row < answered for row in range(5)]
    assert log.count("group answered") == 5 - answered, "groups that had an answer were generated again"


@pytest.mark.parametrize("rescuer_is_done", [True, False], ids=["rescuer done", "rescuer running"])
def test_a_worker_stopped_past_its_lease_adds_nothing_when_it_wakes(
    redis_url: str, policy: str, client: Client, queue: Queue, rescuer_is_done: bool
) -> None:
    with stubs(redis_url, policy, *stub_flags(group_s=1.0, at_once=2)) as (one, two):
        batch = client.submit([[5], [6], [7], [8]], None, tokens())
        zombie, rescuer = wait_until_one_holds(one, two, queue)
        wait_until_logged(zombie, "job started")
        os.kill(zombie.process.pid, signal.SIGSTOP)
        before = queue.done(batch.batch_id)
        wait_until_held(rescuer, queue)
        if rescuer_is_done:
            wait_until_done(queue, batch.batch_id, 4, rescuer)
        os.kill(zombie.process.pid, signal.SIGCONT)
        wait_until_logged(zombie, "lease lost", "lease ran out")
        wait_until_done(queue, batch.batch_id, 4, one, two)
        again = client.submit([[9 + row] for row in range(8)], None, tokens(1), prompts_per_job=1)
        wait_until_done(queue, again.batch_id, 8, one, two)

        answers = audit(redis_url, policy, batch.batch_id, 4)
        assert sum(is_of(answer.worker, rescuer) for answer in answers) == 4 - before
        assert "fenced" in zombie.log, "not logged"
        wait_for(lambda: reported(queue, zombie, "groups_fenced") > 0, 30, lambda: zombie.log)
        audit(redis_url, policy, again.batch_id, 8)


def reported(queue: Queue, worker: WorkerProcess, count: str) -> int:
    """A number from the worker's own report."""
    keys = [key for key in queue.redis.scan_iter(queue.keys.worker("*")) if is_of(key.decode(), worker)]
    found = [cast("bytes | None", queue.redis.hget(key, count)) for key in keys]
    return sum(int(number or 0) for number in found)


def test_an_answer_that_was_under_way_while_the_lease_ran_out_is_fenced(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    with stub(link.url, policy, group_s=2.0, lease_s=LASTING_S) as zombie, contextlib.ExitStack() as later:
        batch = client.submit([[5]], None, tokens())
        wait_until_logged(zombie, "job started")
        link.freeze()
        rescuer = later.enter_context(stub(redis_url, policy, lease_s=LASTING_S))
        wait_until_done(queue, batch.batch_id, 1, zombie, rescuer)
        link.thaw()
        wait_until_logged(zombie, "fenced")
        assert "lease lost, job left to its new owner" in zombie.log

        wait_until_drained(zombie)
        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert is_of(answer.worker, rescuer)
        assert "'fenced': 1" in zombie.log, "not counted"


def test_a_worker_cut_off_aborts_its_engine_before_anyone_takes_over_and_serves_on(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    with stub(link.url, policy, group_s=20.0, lease_s=LASTING_S) as first:
        batch = client.submit([[5], [6]], None, tokens())
        wait_until_held(first, queue)
        with stub(redis_url, policy, lease_s=LASTING_S) as second:
            link.freeze()
            aborted = "lease ran out, engine requests aborted"
            wait_for(lambda: aborted in first.log or not holds(first, queue), 30, lambda: log_of(first, second))
            assert aborted in first.log, f"taken over from a worker that still generates\n{log_of(first)}"
            wait_until_done(queue, batch.batch_id, 2, first, second)
            link.thaw()
        again = client.submit([[7]], None, tokens(1))
        wait_until_done(queue, again.batch_id, 1, first)

        answers = audit(redis_url, policy, batch.batch_id, 2)
        assert all(is_of(answer.worker, second) for answer in answers)
        (answer,) = audit(redis_url, policy, again.batch_id, 1)
        assert is_of(answer.worker, first)


def test_finished_answers_outlast_their_lease_when_nobody_took_over(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    with stub(link.url, policy, group_s=2.0, lease_s=LASTING_S) as worker:
        batch = client.submit([[5], [6]], None, tokens())
        wait_until_logged(worker, "job started")
        link.drop()
        wait_until_logged(worker, "what=publish")
        wait_until_logged(worker, "lease ran out")
        wait_for(lambda: queue.idle_s() > LASTING_S + 1, 30, lambda: worker.log)
        link.restore()
        wait_until_done(queue, batch.batch_id, 2, worker)
        wait_until_drained(worker)

    answers = audit(redis_url, policy, batch.batch_id, 2)
    assert [getattr(answer, "delivery", None) for answer in answers] == [1, 1]
    assert worker.log.count("group answered") == 2, "answers that were finished were generated again"


def test_a_job_longer_than_its_lease_is_run_once_beside_an_idle_worker(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stubs(redis_url, policy, *stub_flags(group_s=1.75 * LASTING_S, lease_s=LASTING_S)) as (one, other):
        batch = client.submit([[5]], None, tokens())
        seen: set[Holder] = set()

        def done() -> bool:
            seen.update(queue.holders().values())
            return queue.done(batch.batch_id) == 1

        wait_for(done, 20, lambda: log_of(one, other))

        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert seen == {Holder(answer.worker, 1)}
        assert getattr(answer, "delivery", None) == 1


def test_a_draining_worker_keeps_its_leases(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    with stubs(redis_url, policy, "--grace-s", "20", *stub_flags(group_s=1.75 * LASTING_S, lease_s=LASTING_S)) as (
        one,
        two,
    ):
        batch = client.submit([[5]], None, tokens())
        first, _ = wait_until_one_holds(one, two, queue)
        assert first.terminate() == 0, first.log

        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert is_of(answer.worker, first)
