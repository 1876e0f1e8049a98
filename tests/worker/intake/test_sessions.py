"""A session's turns go to the worker that has its prefix, for as long as it lives and takes jobs; then to anybody."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from rollstream import Client, GroupResult
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas.keys import GROUP
from tests.support.fault_steps import LASTING_S, SLACK_S, holder, is_of, kill, log_of, stub, stub_flags, stubs, tokens
from tests.support.faults import Queue, audit
from tests.support.worker_process import WorkerProcess, wait_for

WAIT_S = 1.0
LONG_S = 20.0
"""A lease that no wait here may last for."""


@pytest.fixture
def two(redis_url: str, policy: str) -> Iterator[list[WorkerProcess]]:
    with stubs(redis_url, policy, *stub_flags(lease_s=LASTING_S), "--heartbeat-s", "0.2") as workers:
        yield workers


def turn(client: Client, session: str = "s", wait_s: float = WAIT_S, prompt: int = 5) -> GroupResult:
    answer = client.submit([[prompt]], None, tokens(), session=session, session_wait_s=wait_s).wait(30)[0]
    assert isinstance(answer, GroupResult)
    return answer


def owner_of(answer: GroupResult, workers: list[WorkerProcess]) -> tuple[WorkerProcess, WorkerProcess]:
    one, two = workers
    return (one, two) if is_of(answer.worker, one) else (two, one)


def test_turns_of_a_session_go_to_the_worker_that_ran_the_first(client: Client, two: list[WorkerProcess]) -> None:
    owners = {session: turn(client, session).worker for session in ("s0", "s1", "s2")}
    began = time.monotonic()

    for number in range(8):
        for session, owner in owners.items():
            answer = turn(client, session, wait_s=30.0, prompt=5 + number)
            assert (answer.worker, answer.delivery) == (owner, 1), log_of(*two)
    assert time.monotonic() - began < 24 * 0.25 + SLACK_S, "a look every 50 ms finds what waits"
    assert "job waits for its session's worker" in log_of(*two), "chance alone gave every turn to its owner"


def test_jobs_without_a_session_cost_no_command(client: Client, queue: Queue, two: list[WorkerProcess]) -> None:
    queue.redis.config_resetstat()
    client.submit([[5 + row] for row in range(40)], None, tokens(), prompts_per_job=1).wait(30)

    called = queue.redis.info("commandstats")
    assert "cmdstat_set" not in called, called
    assert "cmdstat_get" not in called, called


def frozen(worker: WorkerProcess) -> None:
    os.kill(worker.process.pid, signal.SIGSTOP)


def drained(worker: WorkerProcess) -> None:
    assert worker.terminate() == 0, worker.log


@pytest.mark.parametrize(
    ("harm", "lease_s"),
    [(kill, LONG_S), (frozen, LASTING_S), (drained, LONG_S)],
    ids=["killed", "frozen", "drained"],
)
def test_a_turn_whose_worker_is_gone_is_taken_by_another_after_its_wait(
    redis_url: str, policy: str, client: Client, harm: Callable[[WorkerProcess], object], lease_s: float
) -> None:
    """The read of a frozen worker that waits may take a job itself, like any other: that one waits for its lease."""
    with stubs(redis_url, policy, *stub_flags(lease_s=lease_s), "--heartbeat-s", "0.2") as two:
        owner, other = owner_of(turn(client), two)
        harm(owner)
        began = time.monotonic()
        batch = client.submit([[7]], None, tokens(), session="s", session_wait_s=WAIT_S)
        (answer,) = batch.wait(30).values()
        assert time.monotonic() - began < WAIT_S + SLACK_S + (lease_s if harm is frozen else 0)
        again = turn(client)
        if owner.process.poll() is None:
            os.kill(owner.process.pid, signal.SIGCONT)
        assert is_of(answer.worker, other)
        assert is_of(again.worker, other), "the session is the other's from now on"
        assert len(audit(redis_url, policy, batch.batch_id, 1)) == 1


def test_a_worker_that_dies_with_a_turn_in_its_hands_loses_none(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    flags = (*stub_flags(group_s=1.0, lease_s=2.0), "--heartbeat-s", "0.2")
    with stubs(redis_url, policy, *flags) as two:
        owner, other = owner_of(turn(client), two)
        batch = client.submit([[7]], None, tokens(), session="s", session_wait_s=WAIT_S)
        wait_for(lambda: (found := holder(queue)) is not None and is_of(found.consumer, owner), 20, lambda: owner.log)
        kill(owner)

        (answer,) = batch.wait(30).values()

        assert is_of(answer.worker, other)
        assert len(audit(redis_url, policy, batch.batch_id, 1)) == 1


def test_a_full_worker_keeps_no_turn_from_one_that_has_room(redis_url: str, policy: str, client: Client) -> None:
    flags = (*stub_flags(group_s=3.0, at_once=1, lease_s=LASTING_S), "--heartbeat-s", "0.2")
    with stub(redis_url, policy, *flags) as full:
        first = client.submit([[5]], None, tokens(1), session="s").wait(30)[0]
        busy = client.submit([[6 + row] for row in range(6)], None, tokens(), prompts_per_job=6)
        wait_for(lambda: full.log.count("job started") == 2, 20, lambda: full.log)
        with stub(redis_url, policy, *flags):
            began = time.monotonic()
            second = client.submit([[7]], None, tokens(1), session="s", session_wait_s=30.0).wait(30)[0]
            assert time.monotonic() - began < SLACK_S
        busy.cancel()

    assert second.worker != first.worker


@pytest.mark.parametrize("name", ["parked:worker:gone", "parked:worker:a b", "parked:worker:", "parked:future:1"])
@pytest.mark.keys_by_hand
def test_a_job_that_waits_under_any_name_is_taken_once_its_lease_is_over(
    redis_url: str, policy: str, client: Client, queue: Queue, name: str
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batch = client.submit([[5]], None, tokens())
    queue.redis.xreadgroup(GROUP, name, {queue.jobs_key: ">"})

    with stub(redis_url, policy):
        (answer,) = batch.wait(30).values()

    assert isinstance(answer, GroupResult)


@pytest.mark.parametrize("value", [b"\xff\x1b[2J", b"a b", b"", b"x" * 500, b"nobody-1"])
def test_whatever_a_sessions_key_holds_its_turn_runs(
    client: Client, queue: Queue, stub_worker: WorkerProcess, value: bytes
) -> None:
    queue.redis.set(queue.keys.session_worker("s"), value, ex=60)

    assert is_of(turn(client, wait_s=30.0).worker, stub_worker)
    assert is_of(queue.redis.get(queue.keys.session_worker("s")).decode(), stub_worker)  # type: ignore[union-attr]


@pytest.mark.keys_by_hand
def test_a_key_of_another_type_stops_no_turn(client: Client, queue: Queue, stub_worker: WorkerProcess) -> None:
    queue.redis.hset(queue.keys.session_worker("s"), "x", "y")

    assert is_of(turn(client, wait_s=30.0).worker, stub_worker)
    queue.redis.delete(queue.keys.session_worker("s"))


def test_turns_are_answered_once_through_a_restart_of_redis(policy: str) -> None:
    """A busy machine may take seconds from the stop of the owner to the read of its jobs: its report stays for 16."""
    flags = (*stub_flags(lease_s=LASTING_S), "--heartbeat-s", "1")
    with (
        EmbeddedRedis(appendonly=True) as server,
        Client(server.url, policy=policy, reconnect_s=40) as client,
        stubs(server.url, policy, *flags) as workers,
    ):
        owner, other = owner_of(turn(client), workers)
        os.kill(owner.process.pid, signal.SIGSTOP)
        batches = [client.submit([[7 + row]], None, tokens(), session="s", session_wait_s=LONG_S) for row in range(4)]
        wait_for(lambda: "job waits for its session's worker" in other.log, 20, lambda: other.log)
        server.kill()
        server.start()
        os.kill(owner.process.pid, signal.SIGCONT)
        assert [len(batch.wait(30)) for batch in batches] == [1] * 4
        for batch in batches:
            assert len(audit(server.url, policy, batch.batch_id, 1)) == 1
        assert {worker.process.poll() for worker in workers} == {None}


def test_a_session_has_its_turns_in_every_partition(redis_url: str, policy: str) -> None:
    flags = (*stub_flags(lease_s=LASTING_S), "--heartbeat-s", "0.2", "--partitions", "4")
    with stubs(redis_url, policy, *flags) as two, Client(redis_url, policy=policy, partitions=4) as client:
        answers = [turn(client, wait_s=30.0, prompt=5 + number) for number in range(12)]

        assert len({answer.worker for answer in answers}) == 1, log_of(*two)
