"""A job for a newer version waits without keeping a worker busy, and is taken at once by a worker that may run it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from rollstream import Client
from rollstream.producer.doctor.finding import OK
from rollstream.producer.doctor.probe import probe
from rollstream.producer.doctor.queue_checks import queue_findings
from tests.support.fault_steps import (
    LEASE_S,
    SLACK_S,
    SWEEP_S,
    holder,
    is_of,
    kill,
    stub,
    tokens,
    wait_until_done,
    wait_until_held,
    wait_until_logged,
)
from tests.support.faults import Queue, audit
from tests.support.weights.versions import announce, codes, spans, wait_until_parked, wait_until_serves
from tests.support.worker_process import wait_for

PROMPT_S = 0.4
"""In the median, from publish to answer: what no period of half a second allows."""
TAKEN_S = 1.5
"""Within which a worker that is new enough takes a job that was parked."""


def test_an_older_worker_leaves_a_job_to_a_newer_one_which_takes_it_at_once(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, lease_s=30) as old:
        batch = client.submit([[5], [6]], None, tokens(), min_policy_version=1, prompts_per_job=1)
        wait_until_parked(old, queue, 1, count=2)
        client.publish_policy(1, checkpoint=steps / "step-1")
        with stub(redis_url, policy, "--checkpoint-dir", str(steps), lease_s=30) as new:
            wait_until_done(queue, batch.batch_id, 2, new)
            for row in range(4):
                began = time.monotonic()
                next_one = client.submit([[7 + row]], None, tokens(), min_policy_version=1)
                wait_until_done(queue, next_one.batch_id, 1, old, new)
                assert time.monotonic() - began < TAKEN_S
                (answer,) = audit(redis_url, policy, next_one.batch_id, 1)
                assert is_of(answer.worker, new)

    assert spans(redis_url, queue, batch.batch_id, 2) == [((1, 10),)] * 2
    assert [getattr(answer, "delivery", None) for answer in audit(redis_url, policy, batch.batch_id, 2)] == [1, 1]
    assert "job started" not in old.log


def test_a_worker_that_catches_up_takes_what_it_left_at_once_and_has_not_spun_meanwhile(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), lease_s=30) as worker:
        gated = client.submit([[5]], None, tokens(), min_policy_version=1)
        later = client.submit([[5]], None, tokens(), min_policy_version=2)
        others = client.submit([[6 + row] for row in range(20)], None, tokens(), prompts_per_job=1)
        wait_until_done(queue, others.batch_id, 20, worker)
        wait_until_parked(worker, queue, 1)
        wait_until_parked(worker, queue, 2)
        assert [found.deliveries for found in queue.holders().values()] == [0, 0]
        time.sleep(2 * SWEEP_S)  # sweeps go by, which is no state to wait for
        assert worker.log.count("job waits for a newer version") == 2

        client.publish_policy(1, checkpoint=steps / "step-1")
        client.wait_for_version(1, timeout=30)
        began = time.monotonic()
        wait_until_done(queue, gated.batch_id, 1, worker)
        assert time.monotonic() - began < TAKEN_S
        wait_until_parked(worker, queue, 2)
        client.publish_policy(2, checkpoint=steps / "step-2")
        wait_until_done(queue, later.batch_id, 1, worker)

    assert spans(redis_url, queue, gated.batch_id, 1) == [((1, 10),)]
    assert spans(redis_url, queue, later.batch_id, 1) == [((2, 10),)]


def test_many_parked_jobs_keep_no_other_waiting_and_burn_no_delivery(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    flags = ("--checkpoint-dir", str(steps), "--max-deliveries", "1")
    with stub(redis_url, policy, *flags, at_once=8, lease_s=2 * LEASE_S) as worker:
        gated = client.submit(
            [[5 + row] for row in range(100)], None, tokens(), prompts_per_job=1, min_policy_version=1
        )
        wait_until_parked(worker, queue, 1, count=100)
        wait_until_logged(worker, "job taken over")  # the sweep looks at them when their lease would be over
        for row in range(10):
            began = time.monotonic()
            other = client.submit([[5 + row]], None, tokens())
            wait_until_done(queue, other.batch_id, 1, worker)
            assert time.monotonic() - began < SLACK_S
        wait_for(lambda: worker.log.count("job waits for a newer version") > 200, 20, lambda: worker.log[-2000:])

        client.publish_policy(1, checkpoint=steps / "step-1")
        wait_until_done(queue, gated.batch_id, 100, worker)

    assert set(spans(redis_url, queue, gated.batch_id, 100)) == {((1, 10),)}


def test_a_job_for_a_version_is_answered_as_soon_as_its_worker_serves_it(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    took = []
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), lease_s=30) as worker:
        for version in range(1, 8):
            began = time.monotonic()
            client.publish_policy(version, checkpoint=steps / "step-1")
            batch = client.submit([[5], [6]], None, tokens(), min_policy_version=version)
            wait_until_done(queue, batch.batch_id, 2, worker)
            took.append(time.monotonic() - began)

    assert sorted(took)[3] < PROMPT_S, took


def test_jobs_that_waited_come_before_new_ones_on_a_busy_worker(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), group_s=0.1, at_once=1, lease_s=30) as worker:
        gated = client.submit([[5]], None, tokens(), min_policy_version=1)
        wait_until_parked(worker, queue, 1)
        backlog = client.submit([[6 + row] for row in range(200)], None, tokens(), prompts_per_job=1)
        wait_until_done(queue, backlog.batch_id, 2, worker)
        client.publish_policy(1, checkpoint=steps / "step-1")
        wait_until_serves(worker, queue, 1)
        before = queue.done(backlog.batch_id)
        wait_until_done(queue, gated.batch_id, 1, worker)

        assert queue.done(backlog.batch_id) - before < 100, "it waited for the backlog"
        client.attach(backlog.batch_id).cancel()


def test_a_parked_job_whose_queue_deadline_passes_is_answered_by_an_older_worker(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy) as worker:
        batch = client.submit([[5], [6]], None, tokens(), min_policy_version=1, queue_deadline_s=0.5)
        wait_until_done(queue, batch.batch_id, 2, worker, timeout_s=0.5 + LEASE_S + SWEEP_S + SLACK_S)

    assert codes(redis_url, queue, batch.batch_id, 2) == ["queue_deadline"] * 2
    assert "job waits for a newer version" in worker.log


def test_a_parked_job_of_a_cancelled_batch_leaves_the_queue(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy) as worker:
        batch = client.submit([[5]], None, tokens(), min_policy_version=1)
        wait_until_parked(worker, queue, 1)
        batch.cancel()
        wait_for(lambda: queue.holders() == {}, LEASE_S + SWEEP_S + SLACK_S, lambda: worker.log)

    assert codes(redis_url, queue, batch.batch_id, 1) == ["cancelled"]


def test_a_parked_job_that_others_have_answered_leaves_the_queue(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy) as worker:
        batch = client.submit([[5]], None, tokens(), min_policy_version=1)
        wait_until_parked(worker, queue, 1)
        queue.redis.hset(queue.keys.ledger(batch.batch_id), "g:0", "another entry")
        wait_for(lambda: queue.holders() == {}, LEASE_S + SWEEP_S + SLACK_S, lambda: worker.log)


def test_a_worker_killed_with_a_job_that_had_waited_loses_nothing(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    flags = ("--checkpoint-dir", str(steps))
    with stub(redis_url, policy) as old:
        batch = client.submit([[5]], None, tokens(), min_policy_version=1)
        wait_until_parked(old, queue, 1)
        client.publish_policy(1, checkpoint=steps / "step-1")
        with stub(redis_url, policy, *flags, group_s=60) as first:
            wait_until_held(first, queue)
            assert holder(queue) is not None
            kill(first)
        with stub(redis_url, policy, *flags) as second:
            wait_until_done(queue, batch.batch_id, 1, second)

    (answer,) = audit(redis_url, policy, batch.batch_id, 1)
    assert (is_of(answer.worker, second), getattr(answer, "delivery", None)) == (True, 2)


def test_parked_jobs_are_no_orphans_to_the_doctor(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    with stub(redis_url, policy, lease_s=30) as worker:
        announce(queue, 7, "nowhere")
        client.submit([[5]], None, tokens(), min_policy_version=7)
        wait_until_parked(worker, queue, 7)
        idle_s = 0.4
        wait_for(lambda: queue.idle_s() > 1.5 * idle_s, 30, lambda: worker.log)

        found = {one.check: one for one in queue_findings(asyncio.run(probe(redis_url, queue.keys, idle_s)))}

    assert [found[check].level for check in ("consumers", "stranded", "version gate")] == [OK] * 3
    assert found["version gate"].seen == "jobs wait for policy version 7 (1)"


def test_a_parked_job_that_outlives_its_batch_is_acknowledged_and_never_run(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    flags = ["--checkpoint-dir", str(steps), "--result-ttl-s", "1"]
    with stub(redis_url, policy, *flags, lease_s=30) as worker:
        cut = client.submit([[1], [2]], None, tokens(), min_policy_version=1)
        cancelled = client.submit([[3], [4]], None, tokens(), min_policy_version=1)
        wait_until_parked(worker, queue, 1, count=2)
        assert (cut.cancel(groups=[0, 1]), cancelled.cancel()) == (2, 2)
        kept = [key(one.batch_id) for one in (cut, cancelled) for key in (queue.keys.ledger, queue.keys.results)]
        for key in kept:
            queue.redis.expire(key, 2)  # what a day does
        wait_for(lambda: not queue.redis.exists(*kept), 30, lambda: worker.log)
        client.publish_policy(1, checkpoint=steps / "step-1")
        wait_for(lambda: queue.holders() == {}, 30, lambda: worker.log)
        assert not queue.redis.exists(*kept)
        assert worker.log.count("its batch has expired") == 2
