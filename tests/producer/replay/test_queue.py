"""`rollstream replay` queues the same jobs under a new batch id, once, and a dry run changes nothing."""

from __future__ import annotations

import json
import shlex
import signal
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import BlockingBatchHandle, Client
from rollstream.producer.cli.replay_resume import ReplayOptions
from rollstream.producer.errors import JobGoneError, NothingToReplayError
from rollstream.producer.redis_io.connection import Connection
from rollstream.producer.replay.criteria import ByEntry, written_moment
from rollstream.producer.replay.replay import prepare, queue_replay, replay_dead
from rollstream.producer.replay.selection import Place
from rollstream.schemas import Envelope, Origin, encode
from tests.support.command_line import Command
from tests.support.faults import Queue
from tests.support.replaying import a_job, add_job, bury, entry_ids, finish, jobs_of, replayed, submit
from tests.support.worker_process import wait_for


def test_a_replay_queues_the_same_jobs_under_a_new_id_without_any_worker(
    client: Client, command: Command, queue: Queue
) -> None:
    submit(client, queue_deadline_s=60.0, run_deadline_s=9.0, adapter="math@3")
    before = time.time()
    assert replayed(command("replay", "--batch", "b", "--batch-id", "new")) == "new"
    old, new = jobs_of(queue, "b"), jobs_of(queue, "new")
    assert [job.lineage for job in new] == [(Origin(batch_id="b", entry_id=e),) for e in entry_ids(queue, "b")]
    assert all(job.submitted_at >= before for job in new)
    kept = {"batch_id": "b", "submitted_at": 0.0, "lineage": ()}
    assert [job.model_copy(update=kept) for job in new] == [job.model_copy(update=kept) for job in old]
    envelopes = [Envelope.of(fields) for _, fields in queue.entries()][3:]
    assert [(e.batch_id, e.job, e.groups, e.num_groups) for e in envelopes] == [
        ("new", 0, range(2), 5),
        ("new", 1, range(2, 4), 5),
        ("new", 2, range(4, 5), 5),
    ]
    handle = client.attach("new")
    assert isinstance(handle, BlockingBatchHandle)
    assert (handle.batch.num_groups, handle.batch.num_jobs, handle.batch.prompt_width) == (5, 3, 3)


def test_a_replay_runs_under_whatever_version_is_served(client: Client, command: Command, queue: Queue) -> None:
    submit(client, min_policy_version=202, max_staleness=3)
    assert {(job.min_policy_version, job.max_staleness) for job in jobs_of(queue, "b")} == {(202, 3)}
    new = jobs_of(queue, replayed(command("replay", "--batch", "b")))
    assert {(job.min_policy_version, job.max_staleness) for job in new} == {(0, None)}
    assert [job.lineage for job in new] == [(Origin(batch_id="b", entry_id=e),) for e in entry_ids(queue, "b")]


def test_the_same_batch_id_again_queues_only_what_is_missing_and_other_content_is_refused(
    client: Client, command: Command, queue: Queue
) -> None:
    submit(client)
    for _ in range(2):
        assert replayed(command("replay", "--batch", "b", "--batch-id", "new")) == "new"
    assert len(jobs_of(queue, "new")) == 3
    other = command("replay", "--job", entry_ids(queue, "b")[0], "--batch-id", "new")
    assert (other.exit_code, other.stdout) == (1, "")
    assert "batch 'new' was already submitted with other content" in other.stderr
    assert "rollstream replay" not in other.stderr
    assert "stays queued" not in other.stderr


def test_an_interrupted_replay_says_how_to_queue_the_rest(client: Client, command: Command, queue: Queue) -> None:
    submit(client)
    finish(queue)
    since = written_moment(int(entry_ids(queue, "b")[0].split("-")[0]))
    process = command.start("replay", "--since", since, "--rate", "0.1")
    wait_for(lambda: len(queue.entries()) == 4, 30, lambda: f"{queue.entries()}")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (130, "")
    (line,) = [line for line in stderr.splitlines() if line.startswith("rollstream replay")]
    words = shlex.split(line)[1:]
    rate = words.index("--rate") + 1
    assert words[rate] == "0.1"
    new = replayed(command(*words[:rate], "1000", *words[rate + 1 :]))
    assert [job.groups for job in jobs_of(queue, new)] == [range(2), range(2, 4), range(4, 5)]
    assert len(queue.entries()) == 6


def test_going_on_takes_the_same_options_again() -> None:
    how = ReplayOptions(batch_id=None, attempt="attempt", dry_run=False, rate=0.5, verify=True, timeout=3.0, json=True)
    options = ["--rate", "0.5", "--verify", "--timeout", "3.0", "--json"]
    assert how.again() == ["--continue", "attempt", *options]
    assert ReplayOptions(
        batch_id="new", attempt="x", dry_run=False, rate=None, verify=False, timeout=None, json=False
    ).again() == [
        "--batch-id",
        "new",
    ]


def test_a_letter_that_comes_in_meanwhile_does_not_change_an_interrupted_replay(command: Command, queue: Queue) -> None:
    for number in range(3):
        if number == 2:
            process = command.start("replay", "--dead", "--rate", "0.1")
            wait_for(lambda: len(queue.entries()) == 1, 30, lambda: f"{queue.entries()}")
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=20)
        bury(queue, "one", "gave up", encode(a_job("one", job=number, first_group=number, num_groups=3)), f"{number}-1")
    (line,) = [line for line in stderr.splitlines() if line.startswith("rollstream replay")]
    words = shlex.split(line)[1:]
    words[words.index("--rate") + 1] = "1000"
    assert len(jobs_of(queue, replayed(command(*words)))) == 2
    assert len(queue.entries()) == 2


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_job_that_is_trimmed_or_replaced_before_it_is_queued_again_is_named(
    redis_url: str, redis: Redis, queue: Queue, replaced: bool
) -> None:
    add_job(queue, "b", "1-0")
    connection = Connection(access=redis_url, reconnect_s=1)
    prepared = await prepare(connection, queue.keys, ByEntry(entry_id="1-0"), lambda _: "new")
    await redis.delete(queue.jobs_key)
    if replaced:
        add_job(queue, "other", "1-0")
    with pytest.raises(JobGoneError, match=r"entry 1-0 of .* was trimmed"):
        await queue_replay(connection, queue.keys, prepared.replays[0])
    await connection.aclose()
    assert jobs_of(queue, "new") == []


def test_rate_spreads_the_jobs_over_time(client: Client, command: Command, queue: Queue) -> None:
    submit(client)
    new = replayed(command("replay", "--batch", "b", "--rate", "5"))
    moments = [int(entry_id.split("-")[0]) for entry_id in entry_ids(queue, new)]
    assert len(moments) == 3
    assert moments[-1] - moments[0] >= 2 * 200 - 20  # ms; Redis' clock against ours


async def test_a_requeue_of_a_dead_letter_is_safe_to_repeat(redis_url: str, queue: Queue) -> None:
    place = Place(stream=queue.keys.dead(0), entry_id=bury(queue, "one", "gave up", entry_id="12-3"))
    connection = Connection(access=redis_url, reconnect_s=1)
    for _ in range(2):
        done = await replay_dead(connection, queue.keys, [place], "one.requeue-1")
        assert (done.batch.batch_id, done.original_id) == ("one.requeue-1", "one")
    (job,) = jobs_of(queue, "one.requeue-1")
    assert job.lineage == (Origin(batch_id="one", entry_id="12-3"),)
    with pytest.raises(NothingToReplayError, match="not there"):
        await replay_dead(connection, queue.keys, [Place(stream=place.stream, entry_id="1-1")], "x")
    unreadable = Place(stream=place.stream, entry_id=bury(queue, "one", "gave up", payload=b"?"))
    with pytest.raises(NothingToReplayError, match="Job: expected a map"):
        await replay_dead(connection, queue.keys, [unreadable], "x")
    other = Place(stream=place.stream, entry_id=bury(queue, "two", "gave up"))
    with pytest.raises(NothingToReplayError, match="of 2 batches"):
        await replay_dead(connection, queue.keys, [place, other], "x")
    await connection.aclose()
    assert len(queue.entries()) == 1


def everything(queue: Queue) -> dict[bytes, Any]:
    """Every key of the policy, byte for byte."""
    pattern = f"rs:{{{queue.keys.policy}*"
    # A hash that Redis is still moving to a larger table has no order of its own.
    return {
        key: queue.redis.hgetall(key) if queue.redis.type(key) == b"hash" else queue.redis.dump(key)
        for key in sorted(queue.redis.scan_iter(pattern))
    }


@pytest.mark.parametrize("selecting", [["--batch", "b"], ["--job"], ["--since", "1h"], ["--dead"], ["--dead", "gave"]])
def test_a_dry_run_changes_no_byte(client: Client, command: Command, queue: Queue, selecting: list[str]) -> None:
    submit(client)
    finish(queue)
    bury(queue, "lost", "gave up", encode(a_job("lost")))
    before = everything(queue)
    assert len(before) == 6
    options = [*selecting, entry_ids(queue, "b")[1]] if selecting == ["--job"] else selecting
    for as_json in ([], ["--json"]):
        done = command("replay", *options, "--dry-run", *as_json)
        assert done.exit_code == 0, done.stderr
        assert ".replay-" in done.stdout.replace("\n", "").replace(" ", "")
    assert everything(queue) == before


def test_a_dry_run_shows_what_would_be_queued(client: Client, command: Command, queue: Queue) -> None:
    submit(client)
    entry = entry_ids(queue, "b")[0]
    (row,) = json.loads(command("replay", "--job", entry, "--dry-run", "--json", "--batch-id", "n").stdout)["batches"]
    assert row == {
        "batch_id": "n",
        "replay_of": "b",
        "jobs": 1,
        "original_jobs": 3,
        "groups": 2,
        "prompt_tokens": 3,
        "completions": 4,
        "queued_at": int(entry.split("-")[0]) / 1000,
    }
    table = command("replay", "--job", entry, "--dry-run", "--batch-id", "n")
    assert {"b", "1/3", "2", "3", "4", "n"} <= set(table.stdout.split())
    assert "nothing was queued" in table.stderr
