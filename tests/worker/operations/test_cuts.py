"""Groups that were cut leave the engine, their jobs are acknowledged, and nothing is generated for them."""

from __future__ import annotations

import time

import pytest

from rollstream import Client, GenerationConfig, GroupError
from rollstream.worker.engines.stub_tail import runs_long
from tests.support.fault_steps import (
    SLACK_S,
    kill,
    log_of,
    stub,
    stub_flags,
    stubs,
    tokens,
    wait_until_done,
    wait_until_one_holds,
)
from tests.support.faults import Queue, audit
from tests.support.weights.versions import wait_until_reported
from tests.support.worker_process import WorkerProcess, wait_for

LONG = tokens(4000)
CUT_S = 1.0
"""Workers look every 0.4 s."""
HURRY = "--heartbeat-s", "0.1"
"""So that a report is read soon."""


def codes(redis_url: str, queue: Queue, batch_id: str, groups: int) -> list[str | None]:
    answers = audit(redis_url, queue.keys.policy, batch_id, groups)
    return [answer.code if isinstance(answer, GroupError) else None for answer in answers]


def test_running_groups_that_are_cut_leave_the_engine_and_the_others_run_on(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, *HURRY, group_s=0.2, at_once=3, lease_s=30) as worker:
        batch = client.submit([[5], [6], [7], [8]], None, LONG)
        wait_until_reported(worker, queue, running_groups="4", waiting_groups="0")
        assert batch.cancel(groups=[0, 2, 3]) == 3
        cut_at = time.monotonic()
        wait_until_reported(worker, queue, running_sequences="1", held_jobs="1")
        took_s = time.monotonic() - cut_at
        again = client.submit([[5], [6]], None, tokens(1))  # needs the places of those that were cut
        wait_until_done(queue, again.batch_id, 2, worker)
        assert batch.cancel(groups=[1]) == 1
        wait_for(lambda: not queue.holders(), 30, lambda: worker.log)
        wait_until_reported(worker, queue, held_jobs="0", running_sequences="0", tokens_generated="2")

    assert took_s < CUT_S + SLACK_S
    assert codes(redis_url, queue, batch.batch_id, 4) == ["not_needed"] * 4
    assert worker.log.count("batch cancelled") == 0


def test_groups_that_wait_for_a_place_are_cut_and_their_job_ends_without_them(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, *HURRY, group_s=0.05, at_once=2, lease_s=30) as worker:
        batch = client.submit([[5 + n] for n in range(20)], None, tokens(100), prompts_per_job=20)  # 0.5 s each
        wait_until_reported(worker, queue, held_jobs="1")
        assert batch.cancel(groups=range(2, 20)) == 18
        wait_for(lambda: not queue.holders(), 30, lambda: worker.log)

    assert codes(redis_url, queue, batch.batch_id, 20) == [None] * 2 + ["not_needed"] * 18
    assert worker.log.count("group answered") == 2


def test_queued_jobs_of_groups_that_were_cut_generate_nothing(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    batch = client.submit([[5], [6], [7], [8]], None, tokens(), prompts_per_job=2)
    assert batch.cancel(groups=[0, 1, 2]) == 3
    with stub(redis_url, policy, *HURRY) as worker:
        wait_until_done(queue, batch.batch_id, 4, worker)
        wait_for(lambda: not queue.holders(), 30, lambda: worker.log)
        wait_until_reported(worker, queue, groups_published="1", tokens_generated="10", held_jobs="0")

    assert codes(redis_url, queue, batch.batch_id, 4) == ["not_needed"] * 3 + [None]


@pytest.mark.large
def test_a_group_that_is_cut_while_its_worker_is_dead_is_not_taken_over(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stubs(redis_url, policy, *stub_flags(group_s=0.5)) as (one, two):
        batch = client.submit([[5], [6]], None, tokens(60))  # 3 s each
        first, second = wait_until_one_holds(one, two, queue)
        kill(first)
        assert batch.cancel(groups=[0]) == 1
        wait_until_done(queue, batch.batch_id, 2, second)
        wait_for(lambda: not queue.holders(), 30, lambda: second.log)
        wait_until_reported(second, queue, groups_published="1", tokens_generated="60")

    assert codes(redis_url, queue, batch.batch_id, 2) == ["not_needed", None]
    audited = audit(redis_url, policy, batch.batch_id, 2)
    assert getattr(audited[1], "delivery", None) == 2


def test_a_count_of_cuts_that_is_no_number_only_has_the_ledger_read_again(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, *HURRY, group_s=0.5, lease_s=30) as worker:
        batches = [client.submit([[5], [6]], None, tokens(20)) for _ in range(5)]
        wait_for(lambda: len(queue.holders()) == 5, 30, lambda: worker.log)
        for batch, cuts in zip(batches, ("x", "", "-1", "1e9", "9" * 400), strict=True):
            queue.redis.hset(queue.keys.ledger(batch.batch_id), "cuts", cuts)
        for batch in batches:
            wait_until_done(queue, batch.batch_id, 2, worker)
        wait_until_running_nothing(queue, worker)

    assert [codes(redis_url, queue, batch.batch_id, 2) for batch in batches] == [[None, None]] * 5
    assert "does not answer" not in worker.log


# first_groups

TAIL = ["--stub-long-tail", "prompts", "--stub-vocab-size", "32000", *HURRY]
SHORT = [n for n in range(100) if not runs_long([n], None)]
LONG_ONES = [n for n in range(100) if runs_long([n], None)]
SKEWED = GenerationConfig(max_new_tokens=800, eos_token_id=(2,))
"""With 500 tokens a second: 0.2 s, and 1.6 s for one that runs long."""


def test_the_worker_whose_publish_makes_it_enough_cuts_the_rest_of_every_worker(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    prompts = [LONG_ONES[0], SHORT[0], LONG_ONES[1], SHORT[1], LONG_ONES[2]]
    with stubs(redis_url, policy, *stub_flags(at_once=4, lease_s=30), *TAIL, "--stub-tokens-per-s", "100") as workers:
        batch = client.submit([[n] for n in prompts], None, SKEWED, prompts_per_job=1, first_groups=2)
        rollouts = batch.result(timeout=30)  # the long ones take 8 s
        wait_for(lambda: not queue.holders(), 30, lambda: log_of(*workers))
        wait_until_running_nothing(queue, *workers)

    assert sorted(rollouts.errors) == [0, 2, 4]
    assert codes(redis_url, queue, batch.batch_id, 5) == ["not_needed", None, "not_needed", None, "not_needed"]
    assert {error.field for error in rollouts.errors.values()} == {"first_groups"}
    assert log_of(*workers).count("as many groups as it wanted") == 1


def wait_until_running_nothing(queue: Queue, *workers: WorkerProcess) -> None:
    for worker in workers:
        wait_until_reported(worker, queue, held_jobs="0", running_sequences="0", waiting_groups="0")


def test_groups_that_failed_are_no_groups_that_were_wanted(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    prompts = [[], [40_000], [SHORT[0]], [SHORT[1]], [LONG_ONES[0]]]
    with stub(redis_url, policy, *TAIL, "--stub-tokens-per-s", "100", lease_s=30) as worker:
        batch = client.submit(prompts, None, SKEWED, prompts_per_job=1, first_groups=2)
        batch.wait(timeout=30)
        wait_until_running_nothing(queue, worker)

    found = codes(redis_url, queue, batch.batch_id, 5)
    assert found == ["empty_prompt", "token_out_of_vocabulary", None, None, "not_needed"]


def test_a_batch_that_cannot_have_enough_ends_with_all_its_answers(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, lease_s=30) as worker:
        batch = client.submit([[], [], [5]], None, tokens(), first_groups=2)
        batch.wait(timeout=30)
        wait_until_running_nothing(queue, worker)

    assert codes(redis_url, queue, batch.batch_id, 3) == ["empty_prompt", "empty_prompt", None]


def test_the_next_publish_cuts_what_a_dead_worker_left(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    """A worker died between its publish, which made it enough, and its cut; nobody reads the batch."""
    batch = client.submit([[n] for n in [SHORT[0], *LONG_ONES[:4]]], None, SKEWED, prompts_per_job=5, first_groups=1)
    queue.redis.hset(queue.keys.ledger(batch.batch_id), "good", 1)
    with stub(redis_url, policy, *TAIL, "--stub-tokens-per-s", "100", lease_s=30) as worker:
        wait_until_done(queue, batch.batch_id, 5, worker)
        wait_until_running_nothing(queue, worker)

    assert codes(redis_url, queue, batch.batch_id, 5) == [None, *["not_needed"] * 4]
