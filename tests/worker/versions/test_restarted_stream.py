"""A versions stream that starts again: its versions are served, lower or not, and until then no job is taken."""

from __future__ import annotations

from pathlib import Path

from rollstream import Client
from rollstream.worker.weights import checkpoint
from tests.support.fault_steps import (
    stub,
    tokens,
    wait_until_done,
    wait_until_logged,
)
from tests.support.faults import Queue
from tests.support.weights.versions import (
    announce,
    publish,
    report,
    spans,
    wait_until_refused,
    wait_until_reported,
    wait_until_serves,
)


def start_again(queue: Queue) -> None:
    """Redis has lost all of the queue, its versions with it."""
    queue.redis.delete(*queue.redis.keys(f"rs:{{{queue.keys.policy}*"))


def test_versions_of_a_stream_that_starts_again_are_served_before_another_job_is_taken(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        publish(client, steps, 1)
        client.publish_policy(5, checkpoint=steps / "step-2")
        client.wait_for_version(5, timeout=30)
        for version, step in ((1, 1), (1, 2), (2, 1)):
            start_again(queue)
            client.publish_policy(version, checkpoint=steps / f"step-{step}")
            gated = client.submit([[5]], None, tokens(), min_policy_version=version, max_staleness=0)
            client.wait_for_version(version, timeout=30)
            wait_until_done(queue, gated.batch_id, 1, worker)
            assert spans(redis_url, queue, gated.batch_id, 1) == [((version, 10),)]
            assert report(worker, queue)["policy_sha256"] == checkpoint.digest(steps / f"step-{step}")
        wait_until_reported(worker, queue, state="serving", policy_version="2", newest_version="2")

    assert worker.log.count("the versions stream started again") == 2, "the third stream went on from the second"


def test_while_nothing_of_a_new_stream_can_be_served_nothing_is_taken_and_an_empty_one_changes_nothing(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), group_s=0.05) as worker:
        client.publish_policy(5, checkpoint=steps / "step-1")
        wait_until_serves(worker, queue, 5)
        running = client.submit([[5]], None, tokens(400))
        wait_until_logged(worker, "job started")
        queue.redis.delete(queue.keys.versions())
        before = client.submit([[5]], None, tokens(2))
        wait_until_done(queue, before.batch_id, 1, worker)
        announce(queue, 2, "nowhere")
        wait_until_reported(worker, queue, state="paused", paused_for="policy", policy_version="5")
        wait_until_refused(worker, queue, 2, "no folder of that name")
        after = client.submit([[5]], None, tokens(2))
        wait_until_done(queue, running.batch_id, 1, worker)
        assert queue.done(after.batch_id) == 0

        announce(queue, 3, "half")
        client.publish_policy(4, checkpoint=steps / "step-2")
        announce(queue, 6, "nowhere")
        wait_until_done(queue, after.batch_id, 1, worker)
        wait_until_reported(worker, queue, state="serving", policy_version="4", newest_version="6")

    assert spans(redis_url, queue, before.batch_id, 1) == [((5, 2),)]
    assert spans(redis_url, queue, running.batch_id, 1) == [((5, 400),)]
    assert spans(redis_url, queue, after.batch_id, 1) == [((4, 2),)]


def test_spans_of_what_lives_through_a_swap_to_a_lower_version_say_so_in_order(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), group_s=0.05) as worker:
        client.publish_policy(5, checkpoint=steps / "step-1")
        wait_until_serves(worker, queue, 5)
        batch = client.submit([[5]], None, tokens(400))
        wait_until_logged(worker, "job started")
        queue.redis.delete(queue.keys.versions())
        publish(client, steps, 2)
        wait_until_done(queue, batch.batch_id, 1, worker)

    (of_one,) = spans(redis_url, queue, batch.batch_id, 1)
    assert [version for version, _ in of_one] == [5, 2]
