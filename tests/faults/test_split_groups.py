"""Groups whose samples several jobs have: none is lost, doubled or mixed up, whatever dies at whichever moment."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas import GroupError, GroupResult
from rollstream.schemas.lease import LEASE_FIELD, lease_ms
from tests.support.fault_steps import kill, stub, stub_flags, wait_until_done, wait_until_drained
from tests.support.faults import Link, Queue, audit
from tests.support.lua import SCRIPTS, digest
from tests.support.worker_process import WorkerProcess, wait_for

SAMPLES = 4
CONFIG = GenerationConfig(max_new_tokens=10, num_return_sequences=SAMPLES, seed=11, ignore_eos=True)
NO_TAKEOVER_S, TAKEOVER_S = 600.0, 0.5
CALLS = {"keep_parts.lua": 2, "share.lua": 2, "read_counts.lua": 1, "read_parts.lua": 1, "publish.lua": 1}
"""What a worker that has both jobs of a group calls, and how often."""
POINTS = [
    (call, nth, answered) for call, most in CALLS.items() for nth in range(1, most + 1) for answered in (False, True)
]


def prompts(groups: int) -> list[list[int]]:
    return [[5 + row] for row in range(groups)]


def sampled(answers: list[GroupResult | GroupError]) -> list[Any]:
    """The tokens of each group."""
    assert not [answer for answer in answers if isinstance(answer, GroupError)]
    return [answer.token_ids.numpy().tolist() for answer in answers if isinstance(answer, GroupResult)]


def expected(redis_url: str, policy: str, client: Client, queue: Queue, groups: int) -> list[Any]:
    """What the groups have in one job each. No other worker lives."""
    queue.redis.hdel(queue.keys.control(), LEASE_FIELD)
    with stub(redis_url, policy) as worker:
        whole = client.submit(prompts(groups), None, CONFIG)
        wait_until_done(queue, whole.batch_id, groups, worker)
        wait_until_drained(worker)
    return sampled(audit(redis_url, policy, whole.batch_id, groups))


def wait_until_acknowledged(queue: Queue) -> None:
    """The job that published a group is acknowledged with it; those of its other samples may have a moment to go."""
    wait_for(lambda: queue.holders() == {}, 20, lambda: f"pending: {queue.holders()}")


@pytest.fixture
def victims(redis_url: str, policy: str, queue: Queue) -> Iterator[list[tuple[Link, WorkerProcess]]]:
    """A worker a point, all started and all kept from Redis."""
    for name in CALLS:
        queue.redis.script_load(SCRIPTS[name].text)
    with ExitStack() as stack:
        made = []
        for call, nth, answered in POINTS:
            link = stack.enter_context(Link(redis_url))
            link.freeze()
            link.stop_at(digest(call), nth, answered=answered)
            flags = stub_flags(group_s=0.02, at_once=64, lease_s=NO_TAKEOVER_S)
            worker = WorkerProcess(link.url, policy, *flags, "--max-deliveries", "100")
            stack.callback(worker.end)
            made.append((link, worker))
        yield made


def test_a_worker_killed_at_any_call_for_a_split_group_leaves_one_right_answer(
    redis_url: str, policy: str, client: Client, queue: Queue, victims: list[tuple[Link, WorkerProcess]]
) -> None:
    for number, (point, (link, worker)) in enumerate(zip(POINTS, victims, strict=True)):
        client.submit(prompts(1), None, CONFIG, batch_id=f"b{number}", samples_per_job=2)
        link.thaw()
        wait_for(link.stopped.is_set, 20, lambda point=point, worker=worker: f"{point} never came\n{worker.log}")  # type: ignore[misc] # a lambda with defaults
        kill(worker)
        link.drop()
        wait_for(lambda: queue.redis.info("clients")["blocked_clients"] == 0, 30, lambda: "a read of the dead worker")
    queue.redis.hset(queue.keys.control(), LEASE_FIELD, lease_ms(TAKEOVER_S))  # the victims are gone
    with stub(redis_url, policy, "--max-deliveries", "100", lease_s=TAKEOVER_S) as rescuer:
        for number in range(len(POINTS)):
            wait_until_done(queue, f"b{number}", 1, rescuer)
        wait_until_acknowledged(queue)

    right = expected(redis_url, policy, client, queue, 1)
    for number, point in enumerate(POINTS):
        assert sampled(audit(redis_url, policy, f"b{number}", 1)) == right, point
    assert list(queue.redis.scan_iter(f"{queue.keys.part_bytes(0)}*")) == []


def test_lost_replies_for_a_split_group_change_nothing(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    for name in CALLS:
        queue.redis.script_load(SCRIPTS[name].text)
    batches = []
    with stub(link.url, policy) as worker:
        for lost, (call, most) in enumerate(CALLS.items(), start=1):
            link.lose_reply(to=digest(call), nth=most)
            batches.append(client.submit(prompts(1), None, CONFIG, samples_per_job=2).batch_id)
            wait_until_done(queue, batches[-1], 1, worker)
            wait_for(lambda lost=lost: link.lost == lost, 20, lambda: "no reply was lost")  # type: ignore[misc] # a lambda with defaults
        wait_until_drained(worker)

    answers = [audit(redis_url, policy, batch_id, 1) for batch_id in batches]
    assert worker.log.count("outcome=published") == len(CALLS)
    right = expected(redis_url, policy, client, queue, 1)
    assert [sampled(answer) for answer in answers] == [right] * len(CALLS)


def test_two_workers_that_hand_in_the_last_samples_at_once_publish_one_group(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    rounds = 2
    with ExitStack() as stack:
        links = [stack.enter_context(Link(redis_url)) for _ in range(2)]
        workers = [stack.enter_context(stub(link.url, policy, group_s=0.1, at_once=1, lease_s=20.0)) for link in links]
        for number in range(rounds):
            client.submit(prompts(1), None, CONFIG, batch_id=f"b{number}", samples_per_job=2)
            wait_for(lambda: len(queue.holders()) == 2, 20, lambda: "two workers hold a job each")
            for link in links:
                link.freeze()
            time.sleep(0.4)  # both have generated by now: what is tested is that they hand in together
            for link in links:
                link.thaw()
            wait_until_done(queue, f"b{number}", 1, *workers)
            wait_until_acknowledged(queue)

    right = expected(redis_url, policy, client, queue, 1)
    for number in range(rounds):
        assert sampled(audit(redis_url, policy, f"b{number}", 1)) == right


@pytest.mark.timeout(300)
@pytest.mark.parametrize("groups", [24, pytest.param(200, marks=pytest.mark.large)])
def test_split_groups_under_kills_freezes_and_restarts_are_all_answered_once_and_right(
    policy: str, groups: int
) -> None:
    draw = random.Random(groups)
    with (
        EmbeddedRedis(appendonly=True) as server,
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy, reconnect_s=60) as client,
        ExitStack() as stack,
    ):
        flags = [*stub_flags(group_s=0.1, at_once=4, lease_s=1.0), "--max-deliveries", "100", "--keep-partials", "0.05"]
        workers = [WorkerProcess(server.url, policy, *flags) for _ in range(3)]
        for worker in workers:
            stack.callback(worker.end)
            worker.wait_until_serving()
        batch = client.submit(
            prompts(groups),
            None,
            CONFIG,
            batch_id="b",
            samples_per_job=1,
            prompts_per_job=2,
            expected_tokens=[1] * groups,
        )
        faults = 0
        while batch.done() < groups:
            time.sleep(draw.uniform(0.2, 0.6))
            if faults % 8 == 5:
                server.kill()
                server.start()
            else:
                victim = workers.pop(0)
                kill(victim)
                workers.append(WorkerProcess(server.url, policy, *flags))
                stack.callback(workers[-1].end)
                if faults % 3 == 0:
                    workers[-1].wait_until_serving()
            faults += 1
        wait_until_acknowledged(queue)
        answers = audit(server.url, policy, "b", groups)
        assert faults >= 3
        for worker in workers:
            worker.end()
        assert sampled(answers) == expected(server.url, policy, client, queue, groups)
