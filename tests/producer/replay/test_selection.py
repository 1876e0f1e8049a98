"""What `rollstream replay` selects, by batch, entry, time and dead letter, and what it cannot replay."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgpack
import pytest

from rollstream import Client
from rollstream.producer.replay.criteria import read_moment, written_moment
from rollstream.schemas import Envelope, Job, decode, encode
from rollstream.schemas.keys import GROUP
from tests.support.command_line import Command
from tests.support.faults import Queue
from tests.support.replaying import a_job, add_job, bury, entry_ids, finish, replayed, submit


def test_an_entry_id_of_several_partitions_is_refused_until_it_names_one(command: Command, queue: Queue) -> None:
    for partition, batch_id in enumerate(("first", "second")):
        add_job(queue, batch_id, "5-0", partition)
    refused = command("replay", "--job", "5-0", "--partitions", "2")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "there are several: write 0/5-0 or 1/5-0" in refused.stderr
    assert replayed(command("replay", "--job", "1/5-0", "--partitions", "2")).startswith("second.replay-")
    assert command("replay", "--job", "2/5-0", "--partitions", "2").exit_code == 2


def test_since_leaves_out_batches_that_are_not_finished(client: Client, command: Command, queue: Queue) -> None:
    """One job of `half` is done, one runs and one waits."""
    submit(client, "done")
    finish(queue)
    submit(client, "half")
    queue.redis.xreadgroup(GROUP, "worker", {queue.jobs_key: ">"}, count=2)
    entries = entry_ids(queue, "half")
    queue.redis.xack(queue.jobs_key, GROUP, entries[0])
    found = json.loads(command("replay", "--since", "1h", "--dry-run", "--json").stdout)
    assert [row["replay_of"] for row in found["batches"]] == ["done"]
    reasons = {row["entry_id"]: row["reason"].split(":")[0] for row in found["skipped"]}
    states = ("is done, but other jobs of its batch are not", "is running", "is waiting")
    assert reasons == dict(zip(entries, states, strict=True))
    whole = command("replay", "--batch", "half")
    assert replayed(whole).startswith("half.replay-")
    assert "2 of the jobs still wait or run: they are done a second time" in whole.stderr
    assert "wait or run" in command("replay", "--job", entries[1], "--dry-run").stderr
    assert "wait or run" not in command("replay", "--job", entries[0], "--dry-run").stderr


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (["--since", "1970-01-01T00:16:40Z", "--until", "1970-01-01T00:16:41Z"], ["at", "in", "last"]),
        (["--since", "1970-01-01T00:16:40.001Z", "--until", "1970-01-01T00:16:40.999Z"], ["in"]),
        (["--since", "1970-01-01T00:16:41.000Z"], ["last", "after"]),
        (
            ["--since", datetime.fromtimestamp(1000.2).isoformat(), "--until", "1970-01-01T02:16:41+02:00"],
            ["in", "last"],
        ),
    ],
)
def test_since_and_until_select_exactly_that_range_of_every_partition(
    command: Command, queue: Queue, span: list[str], expected: list[str]
) -> None:
    entries = {"before": "999999-9", "at": "1000000-0", "in": "1000500-3", "last": "1001000-7", "after": "1001001-0"}
    for number, (batch_id, entry_id) in enumerate(entries.items()):
        add_job(queue, batch_id, entry_id, partition=number % 2)
    finish(queue)
    done = command("replay", *span, "--partitions", "2", "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    assert [row["replay_of"] for row in json.loads(done.stdout)["batches"]] == expected


def test_many_jobs_are_read_in_pieces_and_an_age_is_counted_from_now(
    client: Client, command: Command, queue: Queue
) -> None:
    for number in range(40):
        add_job(queue, f"old-{number}", f"{number + 1}-0")
    submit(client)
    finish(queue)
    all_of_them = command("replay", "--since", "1970-01-01", "--dry-run", "--json")
    assert len(json.loads(all_of_them.stdout)["batches"]) == 41
    recent = command("replay", "--since", "10m", "--dry-run", "--json")
    assert [row["replay_of"] for row in json.loads(recent.stdout)["batches"]] == ["b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 910_000), ("1.5m", 910_000), ("2h", 0), ("1970-01-01T00:00:10Z", 10_000),
        ("1970-01-01T01:00:10.250+01:00", 10_250), ("19700101T000010Z", 10_000),
    ],
)  # fmt: skip
def test_moments_are_times_or_ages(text: str, expected: int) -> None:
    assert read_moment(text, 1_000_000) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2x", "-2h", "2h ago", "\x1b[2J"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a time such as"):
        read_moment(text, 0)


def test_a_written_moment_is_read_as_the_same_millisecond() -> None:
    for milliseconds in (0, 1, 999, 1_795_000_000_123, 1_795_000_000_999):
        assert read_moment(written_moment(milliseconds), 0) == milliseconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([], ["one", "two", "three"]),
        (["too_many"], ["one", "two"]),
        (["worker-of-two"], ["two"]),
        (["three"], ["three"]),
        (["77-7"], ["three"]),
    ],
)
def test_dead_letters_are_selected_by_what_they_say(
    command: Command, queue: Queue, text: list[str], expected: list[str]
) -> None:
    bury(queue, "one", "too_many_deliveries: gave up")
    bury(queue, "two", "too_many_deliveries: gave up")
    bury(queue, "three", "engine refused", entry_id="77-7")
    kept = queue.redis.dump(queue.keys.dead(0))
    done = command("replay", "--dead", *text)
    assert done.exit_code == 0, done.stderr
    assert sorted(batch_id.split(".")[0] for batch_id in done.stdout.split()) == sorted(expected)
    jobs = [decode(fields[b"payload"], Job) for _, fields in queue.entries()]
    assert sorted(job.lineage[0].batch_id for job in jobs) == sorted(expected)
    assert queue.redis.dump(queue.keys.dead(0)) == kept


def test_dead_letters_that_hold_no_job_are_listed_and_skipped(command: Command, queue: Queue) -> None:
    message = msgpack.unpackb(encode(a_job("bad")), use_list=False)
    message["config"]["\x1b[2J"] = 1
    bad = bury(queue, "bad", "unreadable\x1b[2J", payload=msgpack.packb(message))
    assert command("replay", "--dead").exit_code == 1
    bury(queue, "good", "too_many_deliveries")
    done = command("replay", "--dead", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert [row["replay_of"] for row in plan["batches"]] == ["good"]
    assert [row["entry_id"] for row in plan["skipped"]] == [bad]
    queued = command("replay", "--dead")
    assert replayed(queued).startswith("good.replay-")
    assert f"skipped {queue.keys.dead(0)} {bad}: generation config: \\x1b[2J: unknown name" in queued.stderr
    assert "\x1b" not in queued.stderr


def test_trimmed_jobs_are_a_clear_error(client: Client, command: Command, queue: Queue) -> None:
    submit(client)
    entry = entry_ids(queue, "b")[0]
    queue.redis.xtrim(queue.jobs_key, maxlen=0, approximate=False)
    for options, problem in (
        (["--batch", "b"], "its 3 jobs are gone, trimmed after the workers' retention"),
        (["--batch", "b", "--partial"], "its 3 jobs are gone"),
        (["--job", entry], f"nothing to replay for entry {entry}: policy"),
        (["--since", "1h"], "has none in 1 partitions"),
        (["--dead", "b"], "nothing to replay for dead letters with 'b'"),
        (["--batch", "other"], "never submitted, expired, or submitted with another policy"),
    ):
        done = command("replay", *options)
        assert (done.exit_code, done.stdout) == (1, ""), options
        assert problem in done.stderr


def test_hostile_entries_and_ledgers_are_errors_and_not_tracebacks(
    client: Client, command: Command, queue: Queue
) -> None:
    submit(client)
    bad: Any = queue.redis.xadd(queue.jobs_key, {"batch": "b", "payload": "\x1b[2J"})
    lying: Any = Envelope(batch_id="c", job=0, first_group=0, job_groups=1, num_groups=1).fields(encode(a_job("d")))
    queue.redis.xadd(queue.jobs_key, lying)
    finish(queue)
    done = command("replay", "--since", "1h")
    assert replayed(done).startswith("b.replay-")
    assert done.stderr.count("skipped") == 2
    queue.redis.hset(queue.keys.ledger("b"), "job:1", bad)
    refused = command("replay", "--batch", "b")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "1 of 3 jobs cannot be replayed: job entry: field 'job' is missing" in refused.stderr
    queue.redis.hset(queue.keys.ledger("b"), "job:1", "\x1b[2J 99999999999999999999-0")
    hostile = command("replay", "--batch", "b")
    assert (hostile.exit_code, hostile.stdout) == (1, "")
    assert "ledger" in hostile.stderr
    assert "\x1b" not in hostile.stderr


def test_a_job_that_requires_what_this_release_does_not_know_is_not_queued_again_without_it(
    client: Client, command: Command, queue: Queue
) -> None:
    submit(client)
    newer: Any = Envelope(batch_id="c", job=0, first_group=0, job_groups=1, num_groups=1).fields(
        encode(a_job("c", requires=("videos",)))
    )
    queue.redis.xadd(queue.jobs_key, newer)
    finish(queue)
    done = command("replay", "--since", "1h")
    assert replayed(done).startswith("b.replay-")
    assert "it requires videos, which this release does not know: upgrade rollstream here" in " ".join(
        done.stderr.split()
    )


@pytest.mark.parametrize(
    "options",
    [
        [], ["--batch", "b", "--dead"], ["--batch", "b", "filter"], ["--until", "1h"], ["--job", "7"],
        ["--job", "99999999999999999999-0"], ["--since", "never"], ["--since", "1h", "--until", "2h"],
        ["--dead", "--partial"], ["--batch", "b", "--timeout", "1"], ["--batch", "b", "--dry-run", "--verify"],
        ["--batch", "b", "--rate", "0"], ["--batch", "b", "--rate", "nan"],
        ["--batch", "b", "--batch-id", "x", "--continue", "y"],
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_usage_errors(command: Command, options: list[str]) -> None:
    done = command("replay", *options)
    assert (done.exit_code, done.stdout) == (2, ""), done.stderr


def test_batch_id_names_one_batch_only(client: Client, command: Command, queue: Queue) -> None:
    submit(client, "one")
    submit(client, "two")
    finish(queue)
    done = command("replay", "--since", "1h", "--batch-id", "new")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--batch-id names one batch, 2 are selected" in " ".join(done.stderr.split())
    bad = command("replay", "--batch", "one", "--batch-id", "not/a name")
    assert bad.exit_code == 1
    assert len(queue.entries()) == 6
