"""What an operator asks for through Redis is done within a second and loses nothing: pause, resume, drain, cancel."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any, cast

from rollstream import Client, GroupError
from rollstream.schemas import GroupResult
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.keys import GROUP
from rollstream.worker.operations.heartbeat import Heartbeat
from rollstream.worker.redis_io.connections import connect
from tests.support.answers import Answering, result_of
from tests.support.fault_steps import (
    LEASE_S,
    SLACK_S,
    SWEEP_S,
    holder,
    stub,
    stub_flags,
    tokens,
    wait_until_done,
    wait_until_drained,
    wait_until_held,
    wait_until_logged,
)
from tests.support.faults import Queue, audit
from tests.support.worker_process import WorkerProcess, wait_for

LONG = tokens(4000)
"""A minute and more at the speed of these tests; `tokens(1)` takes 0.02 s."""
CANCELLED_S = 1.0


def report(worker: WorkerProcess, queue: Queue) -> dict[str, str]:
    """The worker's heartbeat; empty when there is none."""
    mine = f"-{worker.process.pid}-"
    for key in queue.redis.scan_iter(queue.keys.worker("*")):
        if mine in key.decode():
            fields = cast("dict[bytes, bytes]", queue.redis.hgetall(key))
            return {name.decode(): value.decode() for name, value in fields.items()}
    return {}


def wait_until_reported(worker: WorkerProcess, queue: Queue, **fields: str) -> None:
    wait_for(
        lambda: fields.items() <= report(worker, queue).items(),
        10,
        lambda: f"no {fields} in {report(worker, queue)}\n{worker.log}",
    )


def pause(queue: Queue) -> None:
    queue.redis.hset(queue.keys.control(), "paused", f"{time.time():.3f}")


def reads_wait(server: Any) -> bool:
    """Whether a worker of this Redis waits for a job, and would be given the next one."""
    return any(client["cmd"] == "xreadgroup" and "b" in client["flags"] for client in server.client_list())


def resume(queue: Queue) -> None:
    queue.redis.hdel(queue.keys.control(), "paused")


def drain(worker: WorkerProcess, queue: Queue) -> None:
    (key,) = queue.redis.scan_iter(queue.keys.worker("*"))
    assert f"-{worker.process.pid}-" in key.decode()
    queue.redis.hset(key, "drain", "1")


def mark_cancelled(queue: Queue, batch_id: str) -> float:
    """What a producer's cancel writes first; when it did."""
    queue.redis.hset(queue.keys.ledger(batch_id), "cancelled", f"{time.time():.3f}")
    return time.monotonic()


def codes(redis_url: str, queue: Queue, batch_id: str, groups: int) -> list[str | None]:
    """The error code of each group, None if it has a result."""
    answers = audit(redis_url, queue.keys.policy, batch_id, groups)
    return [answer.code if isinstance(answer, GroupError) else None for answer in answers]


def deliveries(redis_url: str, queue: Queue, batch_id: str, groups: int) -> list[int]:
    answers = audit(redis_url, queue.keys.policy, batch_id, groups)
    return [answer.delivery for answer in answers if isinstance(answer, GroupResult)]


@contextlib.contextmanager
def started(redis_url: str, policy: str, *flags: str) -> Iterator[WorkerProcess]:
    """A stub worker that is not waited for."""
    worker = WorkerProcess(redis_url, policy, *stub_flags(), *flags)
    try:
        yield worker
    finally:
        worker.end()


def test_a_paused_queue_is_neither_read_nor_taken_over_until_it_is_resumed(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    orphan = client.submit([[5]], None, tokens())
    queue.redis.xreadgroup(GROUP, "gone", {queue.jobs_key: ">"})
    queued = client.submit([[6], [7]], None, tokens())
    pause(queue)
    with started(redis_url, policy) as worker:
        wait_until_reported(worker, queue, state="paused")
        wait_for(lambda: queue.idle_s() > LEASE_S + 2 * SWEEP_S, 30, lambda: worker.log)
        assert [found.consumer for found in queue.holders().values()] == ["gone"]
        assert (queue.done(orphan.batch_id), queue.done(queued.batch_id)) == (0, 0)

        resume(queue)
        wait_until_done(queue, queued.batch_id, 2, worker)
        wait_until_done(queue, orphan.batch_id, 1, worker)
        wait_until_reported(worker, queue, state="serving")

        assert deliveries(redis_url, queue, orphan.batch_id, 1) == [2]
        assert deliveries(redis_url, queue, queued.batch_id, 2) == [1, 1]


def test_a_read_that_blocked_when_the_queue_was_paused_takes_no_job_and_what_ran_is_finished(
    redis_url: str, policy: str, client: Client, queue: Queue, server: Any
) -> None:
    with stub(redis_url, policy, group_s=1.0, lease_s=30) as worker:
        running = client.submit([[5]], None, tokens())
        wait_until_held(worker, queue)  # and so a read begins that blocks for 2 s
        pause(queue)
        wait_until_logged(worker, "queue paused")
        wait_for(lambda: not reads_wait(server), 1, lambda: worker.log)
        queued = client.submit([[6]], None, tokens(1))
        wait_until_done(queue, running.batch_id, 1, worker)
        assert holder(queue) is None  # nobody was given it
        assert queue.done(queued.batch_id) == 0
        assert "does not answer" not in worker.log

        resume(queue)
        wait_until_done(queue, queued.batch_id, 1, worker)

        assert deliveries(redis_url, queue, running.batch_id, 1) == [1]
        assert deliveries(redis_url, queue, queued.batch_id, 1) == [1]


def test_a_drain_by_command_gives_back_what_is_longer_than_the_grace_and_exits_0(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, "--grace-s", "0.3", group_s=60.0, lease_s=30) as worker:
        client.submit([[5]], None, tokens())
        wait_until_held(worker, queue)
        drain(worker, queue)

        assert worker.process.wait(10) == 0, worker.log
        given_back = holder(queue)
        assert given_back is not None
        assert given_back.deliveries == 0
        assert report(worker, queue) == {}


def test_the_first_signal_after_a_drain_by_command_does_not_end_the_worker_hard(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, "--grace-s", "20", group_s=1.5) as worker:
        batch = client.submit([[5]], None, tokens())
        wait_until_held(worker, queue)
        drain(worker, queue)
        wait_until_reported(worker, queue, state="draining")

        assert worker.terminate() == 0, worker.log
        assert codes(redis_url, queue, batch.batch_id, 1) == [None]


def test_a_drain_asked_of_a_former_process_of_the_same_name_is_not_asked_of_this_one(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.hset(queue.keys.worker("same"), mapping={"state": "serving", "drain": "1"})
    with started(redis_url, policy, "--consumer", "same") as worker:
        wait_for(lambda: queue.redis.hget(queue.keys.worker("same"), "engine") == b"stub", 20, lambda: worker.log)
        batch = client.submit([[5]], None, tokens())
        wait_until_done(queue, batch.batch_id, 1, worker)

        assert worker.process.poll() is None


def test_a_cancelled_batch_leaves_the_engine_within_a_second_and_the_next_is_served(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, group_s=0.2, at_once=3, lease_s=30) as worker:
        batch = client.submit([[5], [6], [7], [8]], None, LONG)
        wait_until_reported(worker, queue, held_jobs="1", running_groups="4", waiting_groups="0")
        cancelled_at = mark_cancelled(queue, batch.batch_id)
        wait_until_done(queue, batch.batch_id, 4, worker)
        took_s = time.monotonic() - cancelled_at
        again = client.submit([[5], [6], [7]], None, tokens(1))  # needs every slot of the engine
        wait_until_done(queue, again.batch_id, 3, worker)
        wait_until_reported(worker, queue, held_jobs="0", running_sequences="0", tokens_generated="3")

        assert took_s < CANCELLED_S + SLACK_S
        assert codes(redis_url, queue, batch.batch_id, 4) == ["cancelled"] * 4
        assert codes(redis_url, queue, again.batch_id, 3) == [None] * 3


def test_a_running_job_whose_groups_the_producer_has_cancelled_is_acknowledged(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, group_s=0.2, lease_s=30) as worker:
        batch = client.submit([[5], [6]], None, LONG)
        wait_until_reported(worker, queue, running_groups="2")
        answer_elsewhere(redis_url, queue, batch.batch_id, [0, 1], 2, by="cancelled")
        mark_cancelled(queue, batch.batch_id)
        wait_for(lambda: not queue.holders(), 30, lambda: worker.log)
        wait_until_reported(worker, queue, groups_duplicate="2", groups_fenced="0", groups_published="0")

        assert codes(redis_url, queue, batch.batch_id, 2) == [None, None]


def test_a_batch_that_was_cancelled_in_the_queue_is_answered_without_generating(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    batch = client.submit([[5], [6], [7]], None, tokens(), prompts_per_job=2)
    mark_cancelled(queue, batch.batch_id)
    with stub(redis_url, policy) as worker:
        wait_until_done(queue, batch.batch_id, 3, worker)
        wait_until_reported(worker, queue, groups_published="3", tokens_generated="0")

        assert codes(redis_url, queue, batch.batch_id, 3) == ["cancelled"] * 3


def answer_elsewhere(
    redis_url: str, queue: Queue, batch_id: str, groups: list[int], num_groups: int, by: str = "1-0|other|1"
) -> None:
    """Answers that came from another entry, or from a producer's cancel."""
    answering = Answering(redis_url, queue.keys.policy, batch_id, num_groups)
    for group in groups:
        queue.redis.hset(answering.ledger, f"g:{group}", by)
        answering.publish(result_of(group, [5], [[1]], batch_id))


def test_only_what_no_other_entry_has_answered_is_generated_and_the_job_is_acknowledged(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    some = client.submit([[5], [6], [7]], None, tokens())
    answer_elsewhere(redis_url, queue, some.batch_id, [0, 2], 3)
    every = client.submit([[8], [9]], None, tokens())
    answer_elsewhere(redis_url, queue, every.batch_id, [0, 1], 2)
    with stub(redis_url, policy) as worker:
        last, _ = queue.entries()[-1]

        def settled() -> bool:
            (group,) = queue.redis.xinfo_groups(queue.jobs_key)
            return bool(group["last-delivered-id"].decode() == last and group["pending"] == 0)

        wait_for(settled, 30, lambda: f"{queue.holders()}\n{worker.log}")
        wait_until_drained(worker)

    by_worker = [answer.worker != "by-hand" for answer in audit(redis_url, policy, some.batch_id, 3)]
    assert by_worker == [False, True, False]
    audit(redis_url, policy, every.batch_id, 2)
    assert worker.log.count("group answered") == 1


async def test_a_role_ends_when_it_is_cancelled_though_redis_py_loses_cancellations(
    redis_url: str, queue: Queue
) -> None:
    for _ in range(60):
        redis = connect(redis_url)
        heartbeat = Heartbeat(redis=redis, keys=queue.keys, consumer="w", interval_s=0, report=WorkerReport)
        role = asyncio.create_task(heartbeat.run())
        await asyncio.sleep(random.uniform(0.0005, 0.004))
        role.cancel()
        _, running = await asyncio.wait([role], timeout=20)
        await redis.aclose()

        assert not running
