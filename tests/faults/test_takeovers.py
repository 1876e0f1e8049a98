"""What a worker leaves is found and finished by another: given back, orphaned, or given up on after too many tries."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from rollstream import Client, GroupError
from rollstream.schemas.keys import GROUP
from tests.support.fault_steps import (
    SLACK_S,
    SWEEP_S,
    holder,
    is_of,
    kill,
    stub,
    stub_flags,
    stubs,
    tokens,
    wait_until_done,
    wait_until_drained,
    wait_until_held,
    wait_until_one_holds,
)
from tests.support.faults import Holder, Queue, audit
from tests.support.lua import SCRIPTS
from tests.support.worker_process import wait_for


def test_a_job_that_kills_its_workers_is_a_dead_letter_and_an_error_to_its_producer(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    batch = client.submit([[5], [6], [7]], None, tokens())
    ((entry_id, fields),) = queue.entries()
    flags = ("--max-deliveries", "2")
    with stub(redis_url, policy, *flags, group_s=0.5, at_once=1) as worker:
        wait_until_done(queue, batch.batch_id, 1, worker)
        kill(worker)
    with stub(redis_url, policy, *flags, group_s=60.0, at_once=1) as worker:
        wait_until_held(worker, queue)
        kill(worker)
    with stub(redis_url, policy, *flags) as survivor:
        wait_until_done(queue, batch.batch_id, 3, survivor)

        answered, *refused = audit(redis_url, policy, batch.batch_id, 3)
        ((letter, payload),) = queue.dead()
        assert not isinstance(answered, GroupError)
        assert [answer.code for answer in refused if isinstance(answer, GroupError)] == ["too_many_deliveries"] * 2
        assert (letter.entry_id, payload) == (entry_id, fields[b"payload"])
        assert letter.deliveries >= 2


def test_a_job_longer_than_the_grace_is_given_back_at_once_and_burns_no_delivery(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    grace_s = 0.3
    with stub(redis_url, policy, "--grace-s", str(grace_s), group_s=60.0, lease_s=30) as first:
        batch = client.submit([[5]], None, tokens())
        wait_until_held(first, queue)
        with stub(redis_url, policy, group_s=1.0, lease_s=30) as second:
            first.process.terminate()
            terminated_at = time.monotonic()
            wait_until_held(second, queue)
            took_s = time.monotonic() - terminated_at - grace_s
            taken = holder(queue)
            assert first.process.wait(10) == 0
            wait_until_done(queue, batch.batch_id, 1, second)

    (answer,) = audit(redis_url, policy, batch.batch_id, 1)
    assert taken == Holder(answer.worker, 1)
    assert is_of(answer.worker, second)
    assert getattr(answer, "delivery", None) == 1
    assert took_s < SWEEP_S + SLACK_S
    assert "gave back" in first.log


def test_a_job_given_back_is_resumed_where_it_stood(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    with stubs(redis_url, policy, "--grace-s", "0", *stub_flags(group_s=0.4, at_once=1, lease_s=30)) as (one, two):
        batch = client.submit([[5 + row] for row in range(4)], None, tokens())
        first, second = wait_until_one_holds(one, two, queue)
        wait_until_done(queue, batch.batch_id, 2, first)
        assert first.terminate() == 0, first.log
        wait_until_done(queue, batch.batch_id, 4, second)
        wait_until_drained(second)

    answers = audit(redis_url, policy, batch.batch_id, 4)
    answered = sum(is_of(answer.worker, first) for answer in answers)
    assert answered >= 2
    assert second.log.count("group answered") == 4 - answered, "groups that had an answer were generated again"


def test_orphans_are_shared_by_the_workers_that_have_room(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batch = client.submit([[5 + row] for row in range(8)], None, tokens(), prompts_per_job=1)
    queue.redis.xreadgroup(GROUP, "gone", {queue.jobs_key: ">"}, count=8)
    with contextlib.ExitStack() as stack:
        with renewing(queue, "gone", list(queue.holders())):  # until both are there
            one, two = stack.enter_context(stubs(redis_url, policy, *stub_flags(group_s=0.4, at_once=1)))
        wait_until_done(queue, batch.batch_id, 8, one, two)

    answers = audit(redis_url, policy, batch.batch_id, 8)
    assert 2 <= sum(is_of(answer.worker, one) for answer in answers) <= 6


def test_leased_entries_ahead_do_not_hide_orphans(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    leased, orphans = 5000, 50
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    with queue.redis.pipeline() as pipe:
        for _ in range(leased):
            pipe.xadd(queue.jobs_key, {"payload": b""})
        ids = pipe.execute()
    queue.redis.xreadgroup(GROUP, "alive", {queue.jobs_key: ">"}, count=leased)
    batch = client.submit([[5 + row] for row in range(orphans)], None, tokens(), prompts_per_job=1)
    queue.redis.xreadgroup(GROUP, "gone", {queue.jobs_key: ">"}, count=orphans)
    left = [entry_id for entry_id, holder in queue.holders().items() if holder.consumer == "gone"]

    with contextlib.ExitStack() as stack:
        stack.enter_context(renewing(queue, "alive", ids))
        with renewing(queue, "gone", left):
            worker = stack.enter_context(stub(redis_url, policy))
        wait_until_done(queue, batch.batch_id, orphans, worker)
        holders = queue.holders()

    assert len(holders) == leased
    assert set(holders.values()) == {Holder("alive", 1)}


def test_pending_jobs_that_somebody_removed_are_told_once_with_their_number(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batch = client.submit([[5 + row] for row in range(30)], None, tokens(), prompts_per_job=1)
    queue.redis.xreadgroup(GROUP, "gone", {queue.jobs_key: ">"}, count=30)
    ids = [entry_id for entry_id, _ in queue.entries()]
    queue.redis.xdel(queue.jobs_key, *ids[:23], ids[25])
    with stub(redis_url, policy) as worker:
        wait_until_done(queue, batch.batch_id, 6, worker)
        wait_for(lambda: not queue.holders(), 30, lambda: worker.log)
        time.sleep(2 * SWEEP_S)  # sweeps go by, which is no state to wait for

    told = [line for line in worker.log.splitlines() if "gone from the stream" in line]
    assert len(told) == 1, worker.log
    assert "jobs=24" in told[0]
    assert "rollstream doctor" in told[0]


@contextlib.contextmanager
def renewing(queue: Queue, consumer: str, ids: list[Any]) -> Iterator[None]:
    """What a live worker does for the entries that it holds."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(0.2):
            queue.redis.xclaim(queue.jobs_key, GROUP, consumer, 0, ids, justid=True)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_workers_that_end_in_order_leave_no_consumer(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    # A job each: before Redis 7 a consumer is only there once it was given something.
    client.submit([[5 + row] for row in range(8)], None, tokens(), prompts_per_job=1)
    with stubs(redis_url, policy, *stub_flags(group_s=0.5, at_once=1), count=4):
        wait_for(lambda: len(queue.consumers()) == 4, 30, lambda: f"{queue.consumers()}")

    assert queue.consumers() == {}


def test_a_consumer_is_only_removed_once_nothing_is_pending(queue: Queue) -> None:
    retire = queue.redis.register_script(SCRIPTS["retire.lua"].text)
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    entry_id = queue.redis.xadd(queue.jobs_key, {"payload": b""})
    queue.redis.xreadgroup(GROUP, "holding", {queue.jobs_key: ">"})

    assert retire(keys=[queue.jobs_key], args=[GROUP, "holding"]) == 0
    assert queue.consumers() == {"holding": 1}

    queue.redis.xack(queue.jobs_key, GROUP, entry_id)
    assert retire(keys=[queue.jobs_key], args=[GROUP, "holding"]) == 1
    assert queue.consumers() == {}
