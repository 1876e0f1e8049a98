"""`rollstream replay`: the same jobs again under a new batch id, the same tokens, and the original untouched."""

from __future__ import annotations

import json
import shlex
import signal
import time
from datetime import datetime
from typing import Any

import msgpack
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from typer.testing import Result

from producer import Client, GenerationConfig
from producer.connection import Connection
from producer.errors import JobGoneError, NothingToReplayError
from producer.replay import prepare, queue_replay, replay_dead
from producer.replay_plan import new_batch_id, plan
from producer.replay_way import Way
from producer.selection import Place, Selected
from producer.selectors import ByEntry, read_moment, written_moment
from schemas import Batch, DeadLetter, Envelope, GroupResult, Job, Keys, Origin, Sealed, Tensor, decode, encode
from schemas.keys import GROUP
from tests.answers import Answering, result_of
from tests.fault_steps import wait_until_done
from tests.faults import Queue
from tests.test_cli import Command, lines
from tests.worker_process import WorkerProcess, wait_for

PROMPTS = [[1, 2], [3], [4, 5, 6], [7], [8, 9]]
CONFIG = GenerationConfig(max_new_tokens=6, num_return_sequences=2, seed=5, ignore_eos=True)


@pytest.fixture
def command(redis_url: str, policy: str) -> Command:
    return Command(redis_url, policy)


def submit(client: Client, batch_id: str = "b", config: GenerationConfig = CONFIG, **options: Any) -> None:
    """Five prompts in three jobs of two, two and one."""
    client.submit(PROMPTS, None, config, batch_id=batch_id, prompts_per_job=2, **options)


def finish(queue: Queue) -> None:
    """All that is queued by now was taken by a worker and acknowledged."""
    for partition in range(2):
        key = Keys(queue.keys.policy, 2).jobs(partition)
        try:
            queue.redis.xgroup_create(key, GROUP, "$", mkstream=True)
        except ResponseError:
            queue.redis.xgroup_setid(key, GROUP, "$")


def jobs_of(queue: Queue, batch_id: str) -> list[Job]:
    jobs = [decode(fields[b"payload"], Job) for _, fields in queue.entries()]
    return [job for job in jobs if job.batch_id == batch_id]


def entry_ids(queue: Queue, batch_id: str) -> list[str]:
    return [entry_id for entry_id, fields in queue.entries() if fields[b"batch"] == batch_id.encode()]


def everything(queue: Queue) -> dict[bytes, Any]:
    """Every key of the policy, byte for byte."""
    pattern = f"rs:{{{queue.keys.policy}*"
    return {key: queue.redis.dump(key) for key in sorted(queue.redis.scan_iter(pattern))}


def tokens(queue: Queue, batch_id: str) -> dict[int, Any]:
    answers = queue.answers(batch_id)
    return {answer.group: answer.token_ids.numpy().tolist() for answer in answers if isinstance(answer, GroupResult)}


def replayed(done: Result) -> str:
    """The only new batch id."""
    assert done.exit_code == 0, done.stderr
    (batch_id,) = done.stdout.split()
    return str(batch_id)


# The same tokens


def test_a_replayed_batch_gives_the_same_tokens_and_leaves_the_original_alone(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    submit(client)
    wait_until_done(queue, "b", 5, stub_worker)
    results, ledger = queue.redis.dump(queue.keys.results("b")), queue.redis.hgetall(queue.keys.ledger("b"))
    done = command("replay", "--batch", "b", "--verify", "--timeout", "30", "--json")
    assert done.exit_code == 0, done.stderr
    (row,) = lines(done.stdout)
    assert row["replay_of"] == "b"
    assert row["batch_id"].startswith("b.replay-")
    assert row["verify"] == {
        "identical": True, "groups": 5, "completions": 10, "tokens": 60, "differing_groups": 0, "first": None,
    }  # fmt: skip
    assert "5 groups, 10 completions, 60 tokens compared: identical" in done.stderr
    assert tokens(queue, row["batch_id"]) == tokens(queue, "b")
    assert (queue.redis.dump(queue.keys.results("b")), queue.redis.hgetall(queue.keys.ledger("b"))) == (results, ledger)


def test_a_job_and_a_replay_of_its_replay_draw_the_seeds_of_the_first_batch(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    submit(client)
    wait_until_done(queue, "b", 5, stub_worker)
    entry = entry_ids(queue, "b")[1]
    once = replayed(command("replay", "--job", entry, "--verify", "--timeout", "30"))
    again = replayed(command("replay", "--batch", once, "--batch-id", "again", "--verify", "--timeout", "30"))
    first = tokens(queue, "b")
    assert tokens(queue, again) == tokens(queue, once) == {0: first[2], 1: first[3]}
    (job,) = jobs_of(queue, "again")
    assert (job.seed_offset, job.first_group, job.num_groups, job.job) == (2, 0, 2, 0)
    assert job.lineage == (
        Origin(batch_id="b", entry_id=entry),
        Origin(batch_id=once, entry_id=entry_ids(queue, once)[0]),
    )
    assert client.attach("again").batch.lineage == job.lineage
    assert client.attach("again").batch.replay_of == once


def test_what_is_left_of_a_batch_is_replayed_when_that_is_asked_for(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    submit(client)
    wait_until_done(queue, "b", 5, stub_worker)
    queue.redis.xdel(queue.jobs_key, entry_ids(queue, "b")[0])
    refused = command("replay", "--batch", "b")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "1 of 3 jobs cannot be replayed: trimmed, or never queued; --partial replays the others" in refused.stderr
    assert len(queue.entries()) == 2
    new = replayed(command("replay", "--batch", "b", "--partial", "--verify", "--timeout", "30"))
    assert tokens(queue, new) == {group - 2: ids for group, ids in tokens(queue, "b").items() if group >= 2}
    assert [(job.job, job.first_group, job.seed_offset) for job in jobs_of(queue, new)] == [(0, 0, 2), (1, 2, 2)]


def test_verify_names_the_first_token_that_differs(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    submit(client, config=CONFIG.model_copy(update={"seed": None}))
    wait_until_done(queue, "b", 5, stub_worker)
    before, after = tamper(queue, "b", group=3, sample=1, position=4)
    done = command("replay", "--batch", "b", "--verify", "--timeout", "30", "--json")
    assert done.exit_code == 3, done.stderr
    text = f"1 groups differ, the first: group 3, sample 1, position 4: token {after} stored, {before} replayed"
    assert text in done.stderr
    assert "b is sampled without a seed at a temperature above 0: its replay is expected to differ" in done.stderr
    (row,) = lines(done.stdout)
    assert row["verify"]["first"] == {
        "group": 3, "new_group": 3, "what": "token", "stored": after, "replayed": before, "sample": 1, "position": 4,
    }  # fmt: skip


def tamper(queue: Queue, batch_id: str, group: int, sample: int, position: int) -> tuple[int, int]:
    """Change one token of one stored result: (before, after)."""
    key, answers = queue.keys.results(batch_id), queue.answers(batch_id)
    (result,) = [answer for answer in answers if isinstance(answer, GroupResult) and answer.group == group]
    ids = result.token_ids.numpy().copy()
    before = int(ids[sample, position])
    ids[sample, position] = before + 1
    queue.redis.delete(key)
    for answer in answers:
        changed = answer if answer is not result else result.model_copy(update={"token_ids": Tensor.of(ids)})
        kind = b"sealed" if isinstance(answer, Sealed) else answer.kind.encode()
        queue.redis.xadd(key, {b"kind": kind, b"payload": encode(changed)})
    return before, before + 1


def test_verify_refuses_before_it_queues_when_there_is_nothing_to_compare_with(
    client: Client, command: Command, queue: Queue, redis_url: str, policy: str
) -> None:
    submit(client)
    Answering(redis_url, policy, "b", 5).publish(result_of(1, [3], [[1], [2]], "b"))
    done = command("replay", "--batch", "b", "--verify")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "4 of 5 groups have no stored result to compare with" in done.stderr
    queue.redis.delete(queue.keys.ledger("b"))
    finish(queue)
    expired = command("replay", "--since", "1h", "--verify")
    assert (expired.exit_code, expired.stdout) == (1, "")
    assert "5 of 5 groups have no stored result" in expired.stderr
    assert len(queue.entries()) == 3


def test_verify_without_a_worker_times_out_after_queueing(
    client: Client, command: Command, queue: Queue, redis_url: str, policy: str
) -> None:
    client.submit([[1]], None, CONFIG, batch_id="b")
    Answering(redis_url, policy, "b", 1).publish(result_of(0, [1], [[1], [2]], "b"))
    done = command("replay", "--batch", "b", "--batch-id", "new", "--verify", "--timeout", "0.2")
    assert (done.exit_code, done.stdout) == (4, "new\n")
    assert "batch 'new': 0 of 1 groups after" in done.stderr
    assert len(jobs_of(queue, "new")) == 1


# What is queued


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
        ("new", 0, range(2), 5), ("new", 1, range(2, 4), 5), ("new", 2, range(4, 5), 5),
    ]  # fmt: skip
    handle = client.attach("new")
    assert (handle.batch.num_groups, handle.batch.num_jobs, handle.batch.prompt_width) == (5, 3, 3)


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
    way = Way(None, "attempt", dry_run=False, rate=0.5, verify=True, timeout=3.0, json=True)
    options = ["--rate", "0.5", "--verify", "--timeout", "3.0", "--json"]
    assert way.again() == ["--continue", "attempt", *options]
    assert Way("new", "x", dry_run=False, rate=None, verify=False, timeout=None, json=False).again() == [
        "--batch-id", "new",
    ]  # fmt: skip


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
    connection = Connection(redis_url, 1)
    prepared = await prepare(connection, queue.keys, ByEntry("1-0"), lambda _: "new")
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


# Selecting by time


def add_job(queue: Queue, batch_id: str, entry_id: str, partition: int = 0) -> None:
    job = a_job(batch_id)
    fields: dict[Any, Any] = dict(Envelope(batch_id, 0, 0, 1, 1).fields(encode(job)))
    queue.redis.xadd(Keys(queue.keys.policy, 2).jobs(partition), fields, id=entry_id)


def a_job(batch_id: str, **changes: Any) -> Job:
    ids, lengths = Tensor.of(ints([7, 8])), Tensor.of(ints([2]))
    fields: dict[str, Any] = {
        "batch_id": batch_id, "job": 0, "first_group": 0, "num_groups": 1, "prompt_ids": ids, "prompt_lengths": lengths,
        "config": CONFIG, "submitted_at": 0.0,
    }  # fmt: skip
    return Job(**fields | changes)


def ints(values: list[int]) -> Any:
    import numpy as np

    return np.array(values, np.int32)


def test_an_entry_id_of_several_partitions_is_refused_until_it_names_one(command: Command, queue: Queue) -> None:
    for partition, batch_id in enumerate(("first", "second")):
        add_job(queue, batch_id, "5-0", partition)
    refused = command("replay", "--job", "5-0", "--partitions", "2")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "there are several: write 0/5-0 or 1/5-0" in refused.stderr
    assert replayed(command("replay", "--job", "1/5-0", "--partitions", "2")).startswith("second.replay-")
    assert command("replay", "--job", "2/5-0", "--partitions", "2").exit_code == 2


def test_since_leaves_out_batches_that_are_not_finished(client: Client, command: Command, queue: Queue) -> None:
    """Of `half`, one job is done, one runs and one waits."""
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


# Dead letters


def bury(queue: Queue, batch_id: str, error: str, payload: bytes | None = None, entry_id: str = "5-0") -> str:
    letter = DeadLetter(
        policy=queue.keys.policy, entry_id=entry_id, fields=((b"batch", batch_id.encode()),), error=error,
        deliveries=3, worker=f"worker-of-{batch_id}", delivered_at=1.0, buried_at=2.0,
    )  # fmt: skip
    payload = encode(a_job(batch_id)) if payload is None else payload
    dead: Any = queue.redis.xadd(queue.keys.dead(0), {"letter": encode(letter), "payload": payload})
    return str(dead.decode())


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


async def test_a_requeue_of_a_dead_letter_is_safe_to_repeat(redis_url: str, queue: Queue) -> None:
    place = Place(queue.keys.dead(0), bury(queue, "one", "gave up", entry_id="12-3"))
    connection = Connection(redis_url, 1)
    for _ in range(2):
        done = await replay_dead(connection, queue.keys, [place], "one.requeue-1")
        assert (done.batch.batch_id, done.original_id) == ("one.requeue-1", "one")
    (job,) = jobs_of(queue, "one.requeue-1")
    assert job.lineage == (Origin(batch_id="one", entry_id="12-3"),)
    with pytest.raises(NothingToReplayError, match="not there"):
        await replay_dead(connection, queue.keys, [Place(place.stream, "1-1")], "x")
    unreadable = Place(place.stream, bury(queue, "one", "gave up", payload=b"?"))
    with pytest.raises(NothingToReplayError, match="Job: expected a map"):
        await replay_dead(connection, queue.keys, [unreadable], "x")
    other = Place(place.stream, bury(queue, "two", "gave up"))
    with pytest.raises(NothingToReplayError, match="of 2 batches"):
        await replay_dead(connection, queue.keys, [place, other], "x")
    await connection.aclose()
    assert len(queue.entries()) == 1


# Looking without touching


@pytest.mark.parametrize("selecting", [["--batch", "b"], ["--job"], ["--since", "1h"], ["--dead"], ["--dead", "gave"]])
def test_a_dry_run_changes_no_byte(client: Client, command: Command, queue: Queue, selecting: list[str]) -> None:
    submit(client)
    finish(queue)
    bury(queue, "lost", "gave up", encode(a_job("lost")))
    before = everything(queue)
    assert len(before) == 4
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
        "batch_id": "n", "replay_of": "b", "jobs": 1, "original_jobs": 3, "groups": 2, "prompt_tokens": 3,
        "completions": 4, "queued_at": int(entry.split("-")[0]) / 1000,
    }  # fmt: skip
    table = command("replay", "--job", entry, "--dry-run", "--batch-id", "n")
    assert {"b", "1/3", "2", "3", "4", "n"} <= set(table.stdout.split())
    assert "nothing was queued" in table.stderr


# What cannot be replayed


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
    queue.redis.xadd(queue.jobs_key, dict(Envelope("c", 0, 0, 1, 1).fields(encode(a_job("d")))))  # type: ignore[arg-type]
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


# Planning


def selected(groups: range, entry_id: str = "1-0", **changes: Any) -> Selected:
    fields: dict[str, Any] = {
        "place": Place("jobs", entry_id), "origin": Origin(batch_id="b", entry_id=entry_id), "groups": groups,
        "num_groups": 100, "prompt_tokens": 3, "longest_prompt": 2, "config": CONFIG, "adapter": None,
        "seed_offset": 0, "lineage": (), "sha256": b"",
    }  # fmt: skip
    return Selected(**fields | changes)


def planned(*jobs: Selected) -> tuple[list[tuple[int, int, int]], list[str]]:
    """(first group in the original, first group, seed offset) of each job of the only batch; the reasons to skip."""
    replays, skipped = plan(jobs, {}, lambda _: "new", 1.0)
    placed = [p for replay in replays for p in replay.jobs]
    return [(p.selected.groups.start, p.first_group, p.seed_offset) for p in placed], [skip.reason for skip in skipped]


def test_jobs_are_renumbered_in_the_order_of_their_groups_and_keep_their_seeds() -> None:
    jobs = selected(range(90, 93), "1-0", seed_offset=4), selected(range(10, 14), "9-0", seed_offset=4)
    assert planned(*jobs) == ([(10, 0, 14), (90, 4, 90)], [])


def test_of_a_batch_id_that_was_used_twice_the_newest_content_is_replayed() -> None:
    other = selected(range(4), "1-0", config=CONFIG.model_copy(update={"seed": 6}))
    same = selected(range(4), "2-0")
    newest = selected(range(4), "10-0")
    jobs, reasons = planned(other, same, newest)
    assert jobs == [(0, 0, 0)]
    assert reasons == [
        "is of another batch of the same id than 10-0: select it by --job",
        "has groups of 10-0, which is selected too",
    ]


def test_a_lineage_and_a_seed_offset_stay_within_their_bounds() -> None:
    lineage = (Origin(batch_id="a", entry_id="1-1"),) * 100
    assert planned(selected(range(1), lineage=lineage))[1] == ["was replayed 100 times already"]
    assert planned(selected(range(2**31 - 2, 2**31 - 1), seed_offset=2))[1] == ["its seed offset is out of bounds"]


def test_the_new_prompt_width_is_the_originals_while_that_is_known() -> None:
    original = Batch(batch_id="b", num_groups=9, num_jobs=3, prompt_width=64, config=CONFIG, submitted_at=0.0)
    widths = [plan([selected(range(1))], known, str, 1.0)[0][0].batch.prompt_width for known in ({"b": original}, {})]
    assert widths == [64, 2]


def test_the_digest_follows_from_the_selection_and_not_from_the_time() -> None:
    one, two = selected(range(1), "1-0"), selected(range(1, 2), "2-0")
    digests = [plan(jobs, {}, str, moment)[0][0].digest for jobs, moment in (((one, two), 1.0), ((two, one), 2.0))]
    assert digests[0] == digests[1]
    changed = selected(range(1, 2), "2-0", sha256=b"other")
    assert plan((one, changed), {}, str, 1.0)[0][0].digest != digests[0]
    assert plan((one,), {}, str, 1.0)[0][0].digest != digests[0]


def test_a_new_batch_id_fits_however_long_the_original_is() -> None:
    long = "x" * 127 + "a", "x" * 127 + "b"
    ids = [new_batch_id(original, "attempt") for original in long]
    assert {len(batch_id) for batch_id in ids} == {128}
    assert len(set(ids)) == 2
    assert ids[0] == new_batch_id(long[0], "attempt") != new_batch_id(long[0], "another")
