"""A replay of jobs that shared out the samples of their groups samples whole groups, with the same seeds."""

from __future__ import annotations

import json

import pytest

from rollstream import Client
from rollstream.schemas import encode
from tests.support.command_line import Command, lines
from tests.support.dead_letters import Operator, bury, letter_of
from tests.support.fault_steps import wait_until_done
from tests.support.faults import Queue
from tests.support.replaying import CONFIG, entry_ids, finish, jobs_of, replayed, submit, tokens
from tests.support.worker_process import WorkerProcess

FOUR = CONFIG.model_copy(update={"num_return_sequences": 4})


def test_a_replayed_split_batch_gives_the_same_tokens(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    submit(client, config=FOUR, samples_per_job=2, expected_tokens=[1, 2, 9, 3, 4])
    wait_until_done(queue, "b", 5, stub_worker)
    done = command("replay", "--batch", "b", "--verify", "--timeout", "30", "--json")

    assert done.exit_code == 0, done.stderr
    (row,) = lines(done.stdout)
    assert (row["verify"]["identical"], row["verify"]["groups"], row["verify"]["completions"]) == (True, 5, 20)
    new = jobs_of(queue, row["batch_id"])
    assert [(job.first_group, job.samples, job.requires) for job in new] == [
        (0, None, ()),
        (2, None, ()),
        (4, None, ()),
    ]
    assert [job.expected_tokens.tolist() for job in new if job.expected_tokens is not None] == [[1, 2], [9, 3], [4]]
    assert len(entry_ids(queue, "b")) == 6


@pytest.mark.parametrize("share", [0, 1])
def test_one_job_of_a_group_is_replayed_as_the_whole_group(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess, share: int
) -> None:
    submit(client, config=FOUR, samples_per_job=2)
    wait_until_done(queue, "b", 5, stub_worker)

    once = replayed(command("replay", "--job", entry_ids(queue, "b")[2 + share], "--verify", "--timeout", "30"))

    first = tokens(queue, "b")
    assert tokens(queue, once) == {0: first[2], 1: first[3]}


def test_a_split_batch_of_which_every_group_has_a_job_left_is_whole(
    client: Client, command: Command, queue: Queue
) -> None:
    submit(client, config=FOUR, samples_per_job=2)
    finish(queue)
    for entry_id in entry_ids(queue, "b")[1:4:2]:
        queue.redis.xdel(queue.jobs_key, entry_id)
    done = command("replay", "--batch", "b", "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["batches"][0]["jobs"] == 3

    queue.redis.xdel(queue.jobs_key, entry_ids(queue, "b")[0])

    assert command("replay", "--batch", "b", "--dry-run").exit_code != 0


def test_a_dead_letter_of_a_share_is_requeued_as_the_whole_group(
    client: Client, operator: Operator, queue: Queue, policy: str, stub_worker: WorkerProcess
) -> None:
    submit(client, config=FOUR, samples_per_job=2)
    wait_until_done(queue, "b", 5, stub_worker)
    share = jobs_of(queue, "b")[3]
    assert share.first_sample == 2
    entry = bury(queue, letter_of(policy), encode(share))
    assert operator.json("show", entry)["payload"]["samples"] == "2 to 3 of 4"

    done = operator("requeue", entry)

    assert done.exit_code == 0, done.stderr
    new = done.stdout.strip()
    wait_until_done(queue, new, 2, stub_worker)
    first = tokens(queue, "b")
    assert tokens(queue, new) == {0: first[2], 1: first[3]}
