"""A replay gives the same tokens again, and `--verify` names the first that differs."""

from __future__ import annotations

from typing import Any

from rollstream import Client, GenerationConfig
from rollstream.schemas import GroupResult, Origin, Sealed, Tensor, encode
from tests.schemas.wire.messages import int32
from tests.support.answers import KEPT_S, Answering, result_of
from tests.support.command_line import Command, lines
from tests.support.fault_steps import stub, wait_until_done
from tests.support.faults import Queue
from tests.support.replaying import CONFIG, entry_ids, finish, jobs_of, replayed, submit, tokens
from tests.support.worker_process import WorkerProcess


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
        "resumed": 0, "first_resumed": None, "resumed_apart": 0, "first_resumed_apart": None,
        "cut_once": 0, "first_cut_once": None, "other_versions": 0, "first_other": None, "apart": None,
    }  # fmt: skip
    assert "5 groups: 10 completions, 60 tokens compared: identical" in done.stderr
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
    (result,) = [one for one in queue.answers(batch_id) if isinstance(one, GroupResult) and one.group == group]
    ids = result.token_ids.numpy().copy()
    before = int(ids[sample, position])
    ids[sample, position] = before + 1
    rewrite(queue, batch_id, group, token_ids=Tensor.of(ids))
    return before, before + 1


def rewrite(queue: Queue, batch_id: str, group: int, **changes: Any) -> None:
    """Replace one stored result."""
    key, answers = queue.keys.results(batch_id), queue.answers(batch_id)
    queue.redis.delete(key)
    for answer in answers:
        same = isinstance(answer, Sealed) or answer.group != group
        kind = b"sealed" if isinstance(answer, Sealed) else answer.kind.encode()
        queue.redis.xadd(
            key, {b"kind": kind, b"payload": encode(answer if same else answer.model_copy(update=changes))}
        )
    queue.redis.expire(key, KEPT_S)


def test_verify_tells_groups_of_another_policy_version_from_those_that_differ(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    submit(client)
    wait_until_done(queue, "b", 5, stub_worker)
    tamper(queue, "b", group=3, sample=0, position=1)
    rewrite(queue, "b", 3, version_spans=(((202, 6),), ((202, 6),)))
    before, after = tamper(queue, "b", group=4, sample=1, position=2)
    done = command("replay", "--batch", "b", "--verify", "--timeout", "30", "--json")
    assert done.exit_code == 3, done.stderr
    assert (
        f"1 groups differ, the first: group 4, sample 1, position 2: token {after} stored, {before} replayed; 1 groups "
        "were answered by other policy versions than the stored ones and are not comparable, the first: group 3, "
        "sample 0, position 0: policy version 202 stored, 0 replayed"
    ) in done.stderr
    found = lines(done.stdout)[0]["verify"]
    assert (found["identical"], found["differing_groups"], found["other_versions"]) == (False, 1, 1)
    assert (found["first"]["group"], found["first_other"]["group"]) == (4, 3)


def test_a_batch_that_another_policy_version_sampled_is_not_identical(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    client.submit([[1]], None, CONFIG, batch_id="b")
    wait_until_done(queue, "b", 1, stub_worker)
    rewrite(queue, "b", 0, version_spans=(((202, 6),), ((202, 6),)))
    done = command("replay", "--batch", "b", "--verify", "--timeout", "30")
    assert (done.exit_code, "groups differ" in done.stderr) == (3, False)
    assert "1 groups: 0 completions, 0 tokens compared: 1 groups were answered by other policy versions" in done.stderr


def test_verify_counts_of_a_completion_that_was_gone_on_with_what_came_before(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    client.submit([[1]], None, CONFIG, batch_id="b")
    wait_until_done(queue, "b", 1, stub_worker)
    before, after = tamper(queue, "b", group=0, sample=1, position=3)
    rewrite(queue, "b", 0, resumed_at=int32(2, 4))
    done = command("replay", "--batch", "b", "--verify", "--timeout", "30")
    assert done.exit_code == 3, done.stderr
    assert (
        "1 groups: 2 completions, 6 tokens compared: 2 completions were gone on with by another delivery, which is "
        "another draw, and are comparable only up to there, the first: group 0, sample 0: resumed after tokens 2 "
        "stored, 0 replayed; 1 of these differ earlier, as after more than one such delivery, the first: group 0, "
        f"sample 1, position 3: token {after} stored, {before} replayed"
    ) in done.stderr


def test_verify_refuses_before_it_queues_when_there_is_nothing_to_compare_with(
    client: Client, command: Command, queue: Queue, redis_url: str, policy: str
) -> None:
    submit(client)
    Answering(redis_url, policy, "b", 5).publish(result_of(1, [3], [[1], [2]], "b"))
    done = command("replay", "--batch", "b", "--verify")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "4 of 5 groups have no stored result to compare with" in done.stderr
    queue.redis.delete(queue.keys.ledger("b"), queue.keys.results("b"))
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


def test_a_replay_of_the_first_k_compares_what_both_runs_kept(
    redis_url: str, policy: str, client: Client, command: Command, queue: Queue
) -> None:
    """The same samples end first in both, for a tenth of them runs eight times as long."""
    first = GenerationConfig(max_new_tokens=160, num_return_sequences=8, first_k=6, eos_token_id=(2,), seed=5)
    with stub(redis_url, policy, "--stub-long-tail", "samples", "--stub-vocab-size", "32000", lease_s=30):
        client.generate([[n] for n in range(4)], None, first, timeout=30, batch_id="b", first_groups=3)

        done = command("replay", "--batch", "b", "--verify", "--timeout", "30", "--json")

    (row,) = lines(done.stdout)
    found = row["verify"]
    assert (row["completions"], found["groups"], found["differing_groups"]) == (24, 4, 0)
    (job,) = jobs_of(queue, row["batch_id"])
    assert (job.first_groups, job.requires) == (None, ("first_k",))
    assert client.attach(row["batch_id"]).result(timeout=10).errors == {}
    assert ("only one of the runs has kept" in done.stderr) == (found["cut_once"] > 0)
