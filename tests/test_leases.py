"""Whatever dies, freezes or loses a reply: every group is answered once, and by whoever holds the lease."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from hashlib import sha1
from importlib import resources
from typing import Any

import pytest

from producer import Client, GenerationConfig, GroupError
from producer.embedded import EmbeddedRedis
from schemas import Envelope
from schemas.keys import GROUP
from tests.faults import Holder, Link, Queue, audit
from tests.worker_process import WorkerProcess, running_worker, wait_for

LEASE_S = 1.0
SWEEP_S = 1.0
"""Most between two sweeps of a recoverer."""
SLACK_S = 1.0
"""For two busy cores: what a takeover may take beyond what is promised."""
TOKENS = 10


def tokens(count: int = TOKENS) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=count, ignore_eos=True)


@pytest.fixture
def queue(redis_url: str, policy: str) -> Iterator[Queue]:
    with Queue(redis_url, policy) as queue:
        yield queue


@pytest.fixture
def client(redis_url: str, policy: str) -> Iterator[Client]:
    with Client(redis_url, policy=policy) as client:
        yield client


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    with Link(redis_url) as link:
        yield link


def stub_flags(group_s: float = 0.0, at_once: int = 256, lease_s: float = LEASE_S) -> list[str]:
    """Groups of `TOKENS` tokens take `group_s` seconds, `at_once` of them at a time."""
    speed = TOKENS / group_s if group_s else 0
    return [
        "--engine", "stub", "--stub-vocab-size", "1000", "--lease-s", str(lease_s),
        "--stub-tokens-per-s", str(speed), "--max-num-seqs", str(at_once),
    ]  # fmt: skip


def stub(
    redis_url: str, policy: str, *flags: str, group_s: float = 0.0, at_once: int = 256, lease_s: float = LEASE_S
) -> contextlib.AbstractContextManager[WorkerProcess]:
    """A serving stub worker; see `stub_flags`."""
    return running_worker(redis_url, policy, *stub_flags(group_s, at_once, lease_s), *flags)


@contextlib.contextmanager
def stubs(redis_url: str, policy: str, *flags: str, count: int = 2) -> Iterator[list[WorkerProcess]]:
    """Several, started side by side; ended in order if nothing went wrong."""
    workers = [WorkerProcess(redis_url, policy, *flags) for _ in range(count)]
    try:
        for worker in workers:
            worker.wait_until_serving()
        yield workers
        running = [worker for worker in workers if worker.process.poll() is None]
        for worker in running:
            worker.process.terminate()
        assert [worker.process.wait(30) for worker in running] == [0] * len(running)
    finally:
        for worker in workers:
            worker.end()


def is_of(consumer: str, worker: WorkerProcess) -> bool:
    return f"-{worker.process.pid}-" in consumer


def kill(worker: WorkerProcess) -> float:
    """SIGKILL; when it was gone."""
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    return time.monotonic()


def log_of(*workers: WorkerProcess) -> str:
    return "\n---\n".join(worker.log for worker in workers)


def holder(queue: Queue) -> Holder | None:
    """Of the only pending entry."""
    found = list(queue.holders().values())
    assert len(found) <= 1, found
    return found[0] if found else None


def holds(worker: WorkerProcess, queue: Queue) -> bool:
    found = holder(queue)
    return found is not None and is_of(found.consumer, worker)


def wait_until_held(worker: WorkerProcess, queue: Queue, timeout_s: float = 10) -> None:
    wait_for(lambda: holds(worker, queue), timeout_s, lambda: f"{queue.holders()}\n{worker.log}")


def wait_until_one_holds(one: WorkerProcess, two: WorkerProcess, queue: Queue) -> tuple[WorkerProcess, WorkerProcess]:
    """The worker that has the only entry, and the other."""
    wait_for(lambda: holds(one, queue) or holds(two, queue), 10, lambda: log_of(one, two))
    return (one, two) if holds(one, queue) else (two, one)


def wait_until_done(queue: Queue, batch_id: str, groups: int, *workers: WorkerProcess, timeout_s: float = 20) -> None:
    wait_for(
        lambda: queue.done(batch_id) >= groups,
        timeout_s,
        lambda: f"{queue.done(batch_id)} of {groups} groups, pending {queue.holders()}\n{log_of(*workers)}",
    )


def wait_until_logged(worker: WorkerProcess, *texts: str, timeout_s: float = 10) -> None:
    """Any one of `texts`."""
    wait_for(lambda: any(text in worker.log for text in texts), timeout_s, lambda: f"no {texts} in\n{worker.log}")


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
        audit(redis_url, policy, again.batch_id, 8)


def test_an_answer_that_was_under_way_while_the_lease_ran_out_is_fenced(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    with stub(link.url, policy, group_s=0.5) as zombie, contextlib.ExitStack() as later:
        batch = client.submit([[5]], None, tokens())
        wait_until_held(zombie, queue)
        link.freeze()
        rescuer = later.enter_context(stub(redis_url, policy))
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
    with stub(link.url, policy, group_s=6.0) as first:
        batch = client.submit([[5], [6]], None, tokens())
        wait_until_held(first, queue)
        with stub(redis_url, policy) as second:
            link.freeze()
            aborted = "lease ran out, engine requests aborted"
            wait_for(lambda: aborted in first.log or not holds(first, queue), 10, lambda: log_of(first, second))
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
    with stub(link.url, policy, group_s=0.4) as worker:
        batch = client.submit([[5], [6]], None, tokens())
        wait_until_held(worker, queue)
        link.drop()
        wait_until_logged(worker, "what=publish")
        wait_until_logged(worker, "lease ran out")
        wait_for(lambda: queue.idle_s() > 2 * LEASE_S, 10, lambda: worker.log)
        link.restore()
        wait_until_done(queue, batch.batch_id, 2, worker)
        wait_until_drained(worker)

    answers = audit(redis_url, policy, batch.batch_id, 2)
    assert [getattr(answer, "delivery", None) for answer in answers] == [1, 1]
    assert worker.log.count("group answered") == 2, "answers that were finished were generated again"


@pytest.mark.parametrize("lease_s", [LEASE_S, 20.0], ids=["leases run out", "leases last"])
def test_redis_killed_and_back_after_3_s_loses_and_doubles_nothing(policy: str, lease_s: float) -> None:
    prompts = [[5 + row] for row in range(24)]
    with (
        EmbeddedRedis(appendonly=True) as server,
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy) as client,
        stubs(server.url, policy, *stub_flags(group_s=0.5, at_once=4, lease_s=lease_s)) as (one, two),
    ):
        batch = client.submit(prompts, None, tokens(), prompts_per_job=1)
        wait_until_done(queue, batch.batch_id, 4, one, two)
        server.kill()
        for worker in (one, two):
            wait_until_logged(worker, "what=publish")
        time.sleep(3)  # the length of the outage, which is no state to wait for
        server.start()
        wait_until_done(queue, batch.batch_id, 24, one, two)

        assert (one.process.poll(), two.process.poll()) == (None, None)
        answers = audit(server.url, policy, batch.batch_id, 24)
        if lease_s > LEASE_S:
            assert [getattr(answer, "delivery", None) for answer in answers] == [1] * 24
            wait_until_drained(one)
            wait_until_drained(two)
            assert log_of(one, two).count("group answered") == 24, "a finished answer was generated again"


def test_redis_back_empty_is_served_on(policy: str) -> None:
    with (
        EmbeddedRedis() as server,
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy) as client,
        stub(server.url, policy, group_s=2.0) as worker,
    ):
        client.submit([[5]], None, tokens())
        wait_until_held(worker, queue)
        server.kill()
        wait_until_logged(worker, "redis does not answer")
        server.start()
        batch = client.submit([[6]], None, tokens(1))
        wait_until_done(queue, batch.batch_id, 1, worker)

        assert worker.process.poll() is None
        audit(server.url, policy, batch.batch_id, 1)


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


def test_a_job_longer_than_its_lease_is_run_once_beside_an_idle_worker(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stubs(redis_url, policy, *stub_flags(group_s=3.5 * LEASE_S)) as (one, other):
        batch = client.submit([[5]], None, tokens())
        seen: set[Holder] = set()

        def done() -> bool:
            seen.update(queue.holders().values())
            return queue.done(batch.batch_id) == 1

        wait_for(done, 20, lambda: log_of(one, other))

        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert seen == {Holder(answer.worker, 1)}
        assert getattr(answer, "delivery", None) == 1


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
    assert took_s < SWEEP_S + SLACK_S / 2
    assert "gave back" in first.log


def test_a_job_given_back_is_resumed_where_it_stood(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    with stubs(redis_url, policy, "--grace-s", "0", *stub_flags(group_s=0.4, at_once=1, lease_s=30)) as (one, two):
        batch = client.submit([[5 + row] for row in range(4)], None, tokens())
        first, second = wait_until_one_holds(one, two, queue)
        wait_until_done(queue, batch.batch_id, 2, first)
        assert first.terminate() == 0, first.log
        answered = queue.done(batch.batch_id)
        wait_until_done(queue, batch.batch_id, 4, second)
        wait_until_drained(second)

    audit(redis_url, policy, batch.batch_id, 4)
    assert second.log.count("group answered") == 4 - answered, "groups that had an answer were generated again"


def wait_until_drained(worker: WorkerProcess) -> None:
    """All that it had to log is logged."""
    assert worker.terminate() == 0, worker.log


def test_orphans_are_shared_by_the_workers_that_have_room(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batch = client.submit([[5 + row] for row in range(8)], None, tokens(), prompts_per_job=1)
    queue.redis.xreadgroup(GROUP, "gone", {queue.jobs_key: ">"}, count=8)
    with stubs(redis_url, policy, *stub_flags(group_s=0.4, at_once=1)) as (one, two):
        wait_until_done(queue, batch.batch_id, 8, one, two)

    answers = audit(redis_url, policy, batch.batch_id, 8)
    assert 2 <= sum(is_of(answer.worker, one) for answer in answers) <= 6


def test_a_draining_worker_keeps_its_leases(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    with stubs(redis_url, policy, "--grace-s", "20", *stub_flags(group_s=3 * LEASE_S)) as (one, two):
        batch = client.submit([[5]], None, tokens())
        first, _ = wait_until_one_holds(one, two, queue)
        assert first.terminate() == 0, first.log

        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert is_of(answer.worker, first)


def test_leased_entries_ahead_do_not_hide_orphans(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    leased, orphans = 500, 20
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    with queue.redis.pipeline() as pipe:
        for _ in range(leased):
            pipe.xadd(queue.jobs_key, {"payload": b""})
        ids = pipe.execute()
    queue.redis.xreadgroup(GROUP, "alive", {queue.jobs_key: ">"}, count=leased)
    batch = client.submit([[5 + row] for row in range(orphans)], None, tokens(), prompts_per_job=1)
    queue.redis.xreadgroup(GROUP, "gone", {queue.jobs_key: ">"}, count=orphans)

    with renewing(queue, "alive", ids), stub(redis_url, policy, lease_s=2 * LEASE_S) as worker:
        wait_until_done(queue, batch.batch_id, orphans, worker, timeout_s=2 * LEASE_S + 4)
        holders = queue.holders()

    assert len(holders) == leased
    assert set(holders.values()) == {Holder("alive", 1)}


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


def test_workers_that_end_in_order_leave_no_consumer(redis_url: str, policy: str, queue: Queue) -> None:
    with stubs(redis_url, policy, *stub_flags(), count=8):
        wait_for(lambda: len(queue.consumers()) == 8, 10, lambda: f"{queue.consumers()}")

    assert queue.consumers() == {}


def test_a_consumer_is_only_removed_once_nothing_is_pending(queue: Queue) -> None:
    retire = queue.redis.register_script(script("retire.lua"))
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    entry_id = queue.redis.xadd(queue.jobs_key, {"payload": b""})
    queue.redis.xreadgroup(GROUP, "holding", {queue.jobs_key: ">"})

    assert retire(keys=[queue.jobs_key], args=[GROUP, "holding"]) == 0
    assert queue.consumers() == {"holding": 1}

    queue.redis.xack(queue.jobs_key, GROUP, entry_id)
    assert retire(keys=[queue.jobs_key], args=[GROUP, "holding"]) == 1
    assert queue.consumers() == {}


def script(name: str) -> bytes:
    return resources.files("worker").joinpath(name).read_bytes()


def calls_of(name: str, queue: Queue) -> bytes:
    """What a call of the script looks like on the wire, once Redis knows the script."""
    queue.redis.script_load(script(name).decode())
    return sha1(script(name), usedforsecurity=False).hexdigest().encode()


@pytest.mark.parametrize("groups", [1, 3], ids=["the last group's", "the first group's"])
def test_a_lost_reply_to_a_publish_doubles_nothing(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link, groups: int
) -> None:
    with stub(link.url, policy, group_s=0.2, at_once=1) as worker:
        link.lose_reply(to=calls_of("publish.lua", queue))
        batch = client.submit([[5 + row] for row in range(groups)], None, tokens())
        wait_until_done(queue, batch.batch_id, groups, worker)
        wait_until_drained(worker)

    answers = audit(redis_url, policy, batch.batch_id, groups)
    assert link.lost == 1
    assert [getattr(answer, "delivery", None) for answer in answers] == [1] * groups
    assert worker.log.count("outcome=published") == groups, "the worker took its own answer for another's"


def test_a_lost_reply_to_a_takeover_loses_nothing(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batch = client.submit([[5]], None, tokens())
    queue.redis.xreadgroup(GROUP, "gone", {queue.jobs_key: ">"})
    link.lose_reply(to=calls_of("claim.lua", queue), holding=b"payload")
    with stub(link.url, policy) as worker:
        wait_until_done(queue, batch.batch_id, 1, worker, timeout_s=3 * LEASE_S + SLACK_S)

    audit(redis_url, policy, batch.batch_id, 1)
    assert link.lost == 1


def test_a_lost_reply_to_a_burial_leaves_one_dead_letter(redis_url: str, policy: str, queue: Queue, link: Link) -> None:
    with stub(link.url, policy) as worker:
        link.lose_reply(to=calls_of("bury.lua", queue))
        queue.redis.xadd(queue.jobs_key, fields_of(Envelope("b", 0, 0, 1, 1), b"no job"))
        wait_until_done(queue, "b", 1, worker)

    audit(redis_url, policy, "b", 1)
    assert link.lost == 1
    assert [payload for _, payload in queue.dead()] == [b"no job"]


def fields_of(envelope: Envelope, payload: bytes) -> Any:
    return envelope.fields(payload)


def test_a_lost_reply_to_a_renewal_costs_no_lease(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    with stub(link.url, policy, group_s=3 * LEASE_S) as worker, stub(redis_url, policy) as idle:
        link.lose_reply(to=calls_of("renew.lua", queue))
        batch = client.submit([[5]], None, tokens())
        wait_until_done(queue, batch.batch_id, 1, worker, idle)

        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert link.lost == 1
        assert getattr(answer, "delivery", None) == 1


def test_an_entry_whose_delivery_was_lost_on_the_way_is_found_by_the_worker_it_was_for(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    with stub(link.url, policy, lease_s=30) as worker:
        link.lose_reply(to=b"XREADGROUP", holding=b"payload")
        batch = client.submit([[5]], None, tokens())
        wait_until_done(queue, batch.batch_id, 1, worker, timeout_s=10)

        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert link.lost == 1
        assert getattr(answer, "delivery", None) == 1
