"""Rows to score are replayed, verified and queued again from dead letters as prompts are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rollstream import Client, ErrorCode, ScoreBatch
from rollstream.producer.blocking_client import BlockingScoreHandle
from rollstream.schemas import GroupScores, Origin, ScoreJob, Sealed, Tensor, decode, encode
from tests.support.answers import KEPT_S
from tests.support.command_line import Command, lines
from tests.support.dead_letters import Operator, letter_of
from tests.support.dead_letters import bury as bury_letter
from tests.support.engine.scoring import answers_to, score_job
from tests.support.fault_steps import stub, wait_until_done
from tests.support.faults import Queue
from tests.support.replaying import bury, entry_ids, finish, replayed
from tests.support.replaying import submit as submit_prompts
from tests.support.worker_process import WorkerProcess

ROWS = [[0, 0, 5, 6, 7], [0, 8, 9, 10, 11], [1, 10**6, 3, 4, 5], [0, 0, 0, 12, 13], [0, 0, 0, 0, 0]]
MASK = [[int(token > 0) for token in row] for row in ROWS]


def submit(client: Client, batch_id: str = "b", **options: Any) -> None:
    """Five rows in three jobs of two, two and one: one has a token of no vocabulary, one has none."""
    options = {"top_logprobs": 2, "rows_per_job": 2} | options
    client.submit_scores(ROWS, MASK, batch_id=batch_id, **options)


def scores(client: Client, batch_id: str) -> ScoreBatch:
    handle = client.attach(batch_id)
    assert isinstance(handle, BlockingScoreHandle)
    return handle.result(timeout=30)


def jobs_of(queue: Queue, batch_id: str) -> list[ScoreJob]:
    named = [fields for _, fields in queue.entries() if fields[b"batch"] == batch_id.encode()]
    return [decode(fields[b"payload"], ScoreJob) for fields in named]


def test_a_replay_gives_the_same_scores_in_the_same_columns(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    submit(client, min_policy_version=0, max_staleness=3, queue_deadline_s=60)
    wait_until_done(queue, "b", 5, stub_worker)
    done = command("replay", "--batch", "b", "--verify", "--timeout", "30", "--json")
    assert done.exit_code == 0, done.stderr
    (line,) = lines(done.stdout)
    assert (line["replay_of"], line["groups"], line["completions"], line["prompt_tokens"]) == ("b", 5, 0, 14)
    assert (line["verify"]["identical"], line["verify"]["tokens"]) == (True, 6)
    assert line["verify"]["apart"] == {
        "dtype": "float32", "tokens": 6, "mean": 0.0, "largest": 0.0, "mean_allowed": 0.002, "largest_allowed": 0.05,
    }  # fmt: skip
    assert "5 groups: 6 scored tokens compared: identical; log-probs are 0 nats apart on average" in done.stderr
    before, after = scores(client, "b"), scores(client, line["batch_id"])
    assert after.log_probs.tolist() == before.log_probs.tolist()
    assert after.scored_mask.tolist() == before.scored_mask.tolist() == [
        [0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0],
    ]  # fmt: skip
    assert after.top_token_ids is not None
    assert before.top_token_ids is not None
    assert after.top_token_ids.tolist() == before.top_token_ids.tolist()
    assert {row: error.code for row, error in after.errors.items()} == {
        2: ErrorCode.TOKEN_OUT_OF_VOCABULARY, 4: ErrorCode.EMPTY_PROMPT,
    }  # fmt: skip
    new = jobs_of(queue, line["batch_id"])
    assert [job.lineage for job in new] == [(Origin(batch_id="b", entry_id=e),) for e in entry_ids(queue, "b")]
    assert {(job.max_staleness, job.queue_deadline_s) for job in new} == {(None, 60.0)}


def test_a_job_and_a_replay_of_its_replay_keep_the_columns_of_the_first_batch(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    submit(client)
    wait_until_done(queue, "b", 5, stub_worker)
    once = replayed(command("replay", "--job", entry_ids(queue, "b")[1], "--verify", "--timeout", "30"))
    again = replayed(command("replay", "--batch", once, "--batch-id", "again", "--verify", "--timeout", "30"))
    handle = client.attach(again)
    assert (handle.batch.replay_of, [origin.batch_id for origin in handle.batch.lineage]) == (once, ["b", once])
    assert scores(client, again).scored_mask.tolist() == scores(client, "b").scored_mask[2:4].tolist()
    (job,) = jobs_of(queue, "again")
    assert (job.job, job.first_group, job.num_groups) == (0, 0, 2)


def test_without_the_original_ledger_scores_begin_in_column_0(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    submit(client)
    wait_until_done(queue, "b", 5, stub_worker)
    queue.redis.delete(queue.keys.ledger("b"), queue.keys.results("b"))
    new = replayed(command("replay", "--job", entry_ids(queue, "b")[0]))
    assert scores(client, new).scored_mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def rewrite(queue: Queue, batch_id: str, group: int, **changes: Any) -> None:
    """Replace one stored row."""
    key = queue.keys.results(batch_id)
    stored: Any = queue.redis.xrange(key)
    queue.redis.delete(key)
    for _, fields in stored:
        kinds: tuple[type[GroupScores | Sealed], ...] = (GroupScores, Sealed)
        if fields[b"kind"] == b"scores":
            answer = decode(fields[b"payload"], *kinds)
            if isinstance(answer, GroupScores) and answer.group == group:
                fields[b"payload"] = encode(answer.model_copy(update=changes))
        queue.redis.xadd(key, fields)
    queue.redis.expire(key, KEPT_S)


def test_verify_tells_rows_of_another_version_from_those_that_differ(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    submit(client)
    wait_until_done(queue, "b", 5, stub_worker)
    rewrite(queue, "b", 0, policy_version=202)
    rewrite(queue, "b", 3, logprobs=Tensor.of(np.array([-99.0], np.float32)))
    done = command("replay", "--batch", "b", "--verify", "--timeout", "30")
    assert done.exit_code == 3, done.stderr
    assert "1 groups differ, the first: group 3, position 0: log-prob -99.0 stored, " in done.stderr
    other = "1 groups were answered by other policy versions than the stored ones and are not comparable, the first: "
    assert f"{other}group 0: policy version 202 stored, 0 replayed" in done.stderr


@pytest.mark.keys_by_hand
def test_a_dead_letter_is_shown_queued_again_and_scored(
    client: Client, operator: Operator, queue: Queue, redis_url: str, policy: str
) -> None:
    name = bury_letter(queue, letter_of(policy), encode(score_job([[5, 6, 7], [], [8, 9]], top_logprobs=2)))
    shown = operator.json("show", name)["payload"]
    assert (shown["row_tokens"], shown["firsts"], shown["top_logprobs"]) == ([3, 0, 2], [1, 0, 1], 2)
    assert operator.json("ls")[0]["entry"] == name
    done = operator("requeue", name)
    assert (done.exit_code, done.stdout) == (0, f"s-1.requeue-{name}\n"), done.stderr
    assert operator.json("ls") == []
    with stub(redis_url, policy):
        found = scores(client, f"s-1.requeue-{name}")
    assert (found.scored_mask.tolist(), list(found.errors)) == ([[1, 1], [0, 0], [1, 0]], [1])
    assert client.attach(f"s-1.requeue-{name}").batch.replay_of == "s-1"
    assert len(answers_to(queue, f"s-1.requeue-{name}", 3)) == 3


def test_prompts_and_rows_of_one_span_become_batches_of_their_own(
    client: Client, command: Command, queue: Queue
) -> None:
    submit_prompts(client, "prompts")
    submit(client, "rows")
    finish(queue)
    found = json.loads(command("replay", "--since", "1h", "--dry-run", "--json").stdout)
    assert [(one["replay_of"], one["completions"]) for one in found["batches"]] == [("prompts", 10), ("rows", 0)]
    assert found["skipped"] == []
    shown = command("replay", "--since", "1h", "--dry-run")
    assert "rows" in shown.stdout
    done = command("replay", "--since", "1h")
    assert (done.exit_code, len(done.stdout.split())) == (0, 2), done.stderr
    assert isinstance(client.attach(done.stdout.split()[1]), BlockingScoreHandle)


def test_a_batch_id_of_prompts_and_of_rows_keeps_the_newest(command: Command, queue: Queue) -> None:
    bury(queue, "one", "gave up", entry_id="5-0")
    bury(queue, "one", "gave up", encode(score_job([[1, 2]], batch_id="one")), "6-0")
    found = json.loads(command("replay", "--dead", "--dry-run", "--json").stdout)
    assert [one["completions"] for one in found["batches"]] == [0]
    assert [skip["reason"].split(" than ")[0] for skip in found["skipped"]] == ["is of another batch of the same id"]
