"""Score jobs: each row is answered once, with its scores or with why it has none, like the groups of any job."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rollstream import AsyncClient
from rollstream.schemas import Envelope, GroupError, GroupScores, encode
from rollstream.worker.engines.stub_likelihoods import likelihoods
from rollstream.worker.requests import ScoreRequest, Scores
from tests.support.engine.scoring import answers_to, queue_scores, score_job
from tests.support.fault_steps import kill, stub
from tests.support.faults import Queue
from tests.support.processes.counting_worker import serving
from tests.support.weights.publishing import lora
from tests.support.worker_process import wait_for

ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


def codes(answers: Sequence[GroupScores | GroupError]) -> list[str]:
    return [answer.code if isinstance(answer, GroupError) else "scored" for answer in answers]


def assert_scored(answer: GroupScores | GroupError, row: list[int], first: int = 1, k: int = 0) -> None:
    """The answer has what any stub gives for the row."""
    assert isinstance(answer, GroupScores)
    expected = likelihoods(row, first, "", 0, k)
    assert np.array_equal(answer.logprobs.numpy(), expected[:, 0])
    assert (answer.top_logprobs is None) == (k == 0)
    if answer.top_logprobs is not None:
        assert np.array_equal(answer.top_logprobs.numpy(), -np.sort(-expected[:, 1:]))


def test_ragged_rows_are_scored_from_any_first_token(redis_url: str, policy: str, queue: Queue) -> None:
    batch = queue_scores(queue, score_job(ROWS, [2, 1, 1], top_logprobs=3))
    with stub(redis_url, policy):
        answers = answers_to(queue, batch, 3)

    for answer, row, first in zip(answers, ROWS, [2, 1, 1], strict=True):
        assert_scored(answer, row, first, k=3)
    assert {answer.policy_version for answer in answers if isinstance(answer, GroupScores)} == {0}
    assert {answer.delivery for answer in answers if isinstance(answer, GroupScores)} == {1}


def test_rows_beside_a_bad_one_are_scored(redis_url: str, policy: str, queue: Queue) -> None:
    rows = [[5, 6], [], [7, 1000], [8] * 13, [9] * 12]
    batch = queue_scores(queue, score_job(rows))
    with stub(redis_url, policy, "--max-model-len", "12"):
        answers = answers_to(queue, batch, 5)

    assert codes(answers) == ["scored", "empty_prompt", "token_out_of_vocabulary", "too_long", "scored"]
    assert all(answer.prompt is None for answer in answers if isinstance(answer, GroupError))
    assert_scored(answers[4], [9] * 12)


def test_a_row_that_kills_the_engine_costs_its_own_job_alone(redis_url: str, policy: str, queue: Queue) -> None:
    poison = "--max-deliveries", "1", "--stub-poison-token", "666"
    with stub(redis_url, policy, *poison) as worker:
        poisonous = queue_scores(queue, score_job([[5, 6, 666]], batch_id="poison"))
        worker.process.wait(30)
    good = queue_scores(queue, score_job(ROWS, batch_id="good"))
    with stub(redis_url, policy, *poison):
        assert codes(answers_to(queue, good, 3)) == ["scored"] * 3
        assert codes(answers_to(queue, poisonous, 1)) == ["too_many_deliveries"]

    assert queue.redis.xlen(queue.keys.dead(0)) == 1


def test_more_candidates_than_the_engine_gives_are_refused_by_name(redis_url: str, policy: str, queue: Queue) -> None:
    batch = queue_scores(queue, score_job(ROWS, top_logprobs=9))
    with stub(redis_url, policy, "--stub-vocab-size", "8"):
        answers = answers_to(queue, batch, 3)

    assert codes(answers) == ["invalid_config"] * 3
    assert {answer.field for answer in answers if isinstance(answer, GroupError)} == {"top_logprobs"}


@pytest.mark.parametrize(
    ("row", "k", "field"), [([5] * 70_000, 128, "top_logprobs"), ([5] * 4, 0, None)], ids=["too large", "small"]
)
def test_a_row_whose_scores_fit_no_message_is_refused_before_it_is_scored(
    redis_url: str, policy: str, queue: Queue, row: list[int], k: int, field: str | None
) -> None:
    batch = queue_scores(queue, score_job([row], top_logprobs=k))
    with stub(redis_url, policy, "--max-model-len", "100000"):
        (answer,) = answers_to(queue, batch, 1)

    if field is None:
        assert isinstance(answer, GroupScores)
    else:
        assert isinstance(answer, GroupError)
        assert (answer.code, answer.field) == ("too_long", field)
        assert "the scores of 69999 tokens with 128 candidates each" in answer.message
        assert "begin at a later token" in answer.message


def test_a_killed_workers_rows_are_scored_by_another(redis_url: str, policy: str, queue: Queue) -> None:
    batch = queue_scores(queue, score_job(ROWS))
    with stub(redis_url, policy, group_s=600.0, at_once=1) as first:
        wait_for(lambda: bool(queue.holders()), 20, lambda: first.log)
        kill(first)
    with stub(redis_url, policy):
        answers = answers_to(queue, batch, 3)

    for answer, row in zip(answers, ROWS, strict=True):
        assert_scored(answer, row)
    assert {answer.delivery for answer in answers if isinstance(answer, GroupScores)} == {2}


MANY = [[5, 6]] * 30
"""A minute for a stub of `group_s=20.0` that takes one row at a time: longer than `answers_to` waits."""


def assert_scored_at_once(answer: GroupScores | GroupError) -> None:
    """The row is scored, and waited for no other in the engine: that would take two seconds more."""
    assert_scored(answer, [5, 6])
    assert isinstance(answer, GroupScores)
    assert answer.score_s < 3.5


def test_a_run_deadline_ends_rows_that_wait_and_frees_the_engine(redis_url: str, policy: str, queue: Queue) -> None:
    late = queue_scores(queue, score_job(MANY, run_deadline_s=0.3, batch_id="late"))
    with stub(redis_url, policy, group_s=20.0, at_once=1):
        assert codes(answers_to(queue, late, 30)) == ["run_deadline"] * 30
        patient = queue_scores(queue, score_job([[5, 6]], run_deadline_s=600, batch_id="patient"))
        assert_scored_at_once(answers_to(queue, patient, 1)[0])


def test_a_job_that_waited_too_long_is_answered_unscored(redis_url: str, policy: str, queue: Queue) -> None:
    late = queue_scores(queue, score_job(ROWS, queue_deadline_s=0.2, batch_id="late"))
    patient = queue_scores(queue, score_job(ROWS, queue_deadline_s=1000, batch_id="patient"))
    queued_at = int(queue.entries()[-1][0].partition("-")[0]) / 1000
    wait_for(lambda: _now(queue) > queued_at + 0.2, 20, lambda: "Redis' clock stands still")
    with stub(redis_url, policy):
        assert codes(answers_to(queue, patient, 3)) == ["scored"] * 3
        assert codes(answers_to(queue, late, 3)) == ["queue_deadline"] * 3


def _now(queue: Queue) -> float:
    seconds, micros = queue.redis.time()
    return seconds + micros / 1e6


def test_a_cancelled_batch_frees_the_engine(redis_url: str, policy: str, queue: Queue) -> None:
    cancelled = queue_scores(queue, score_job(MANY, batch_id="cancelled"))
    with stub(redis_url, policy, group_s=20.0, at_once=1) as worker:
        wait_for(lambda: bool(queue.holders()), 20, lambda: worker.log)
        queue.redis.hset(queue.keys.ledger(cancelled), "cancelled", "1")
        assert codes(answers_to(queue, cancelled, 30))[2:] == ["cancelled"] * 28
        wanted = queue_scores(queue, score_job([[5, 6]], batch_id="wanted"))
        assert_scored_at_once(answers_to(queue, wanted, 1)[0])


def test_a_payload_that_is_no_score_job_is_answered(redis_url: str, policy: str, queue: Queue) -> None:
    payloads = [
        b"", b"\x81", encode(score_job(ROWS, batch_id="other")),
        encode(score_job(ROWS)).replace(b"row_lengths", b"row_lengthz"),
        encode(score_job(ROWS, batch_id="s-4", requires=("videos",))),
    ]  # fmt: skip
    batches = [
        queue_scores(queue, score_job(ROWS, batch_id=f"s-{number}"), payload=payload)
        for number, payload in enumerate(payloads)
    ]
    with stub(redis_url, policy):
        found = [codes(answers_to(queue, batch, 3)) for batch in batches]

    assert found == [["unreadable_job"] * 3] * 4 + [["unsupported"] * 3]


def test_scored_tokens_are_no_generated_ones(redis_url: str, policy: str, queue: Queue) -> None:
    batch = queue_scores(queue, score_job(ROWS))
    with stub(redis_url, policy) as worker:
        answers_to(queue, batch, 3)
        worker.terminate()

    (minute,) = [queue.redis.hgetall(key) for key in queue.redis.scan_iter(queue.keys.history(0)[:-1] + "*")]
    assert (minute[b"groups"], minute[b"scored"]) == (b"3", b"6")
    assert b"tokens" not in minute
    assert b"sequences" not in minute
    totals = queue.redis.hgetall(queue.jobs_key.removesuffix(":jobs") + ":totals")
    assert totals[b"tokens_queued"] == totals[b"tokens_answered"] == b"0"
    assert Envelope.of(queue.entries()[0][1]).tokens == 9


async def test_a_policy_that_is_an_adapter_scores_with_it(redis_url: str, policy: str, trainer: AsyncClient) -> None:
    async with serving(redis_url, policy, lora=True) as (_, engine):
        plain = await trainer.score(ROWS, timeout=30)
        await trainer.publish_policy(1, adapter=lora(seed=1), lora_alpha=8)
        await trainer.wait_for_version(1, timeout=30)
        asked: list[ScoreRequest] = []
        scored = engine.score

        async def score(request: ScoreRequest) -> Scores:
            asked.append(request)
            return await scored(request)

        engine.score = score  # type: ignore[method-assign] # to see the requests
        adapted = await trainer.score(ROWS, timeout=30)

    assert plain.versions.tolist() == [0, 0, 0]
    assert (adapted.versions.tolist(), adapted.adapter) == ([1, 1, 1], None)
    assert len(asked) == 3
    assert all(request.adapter is not None for request in asked)
    assert not (plain.log_probs == adapted.log_probs)[adapted.scored_mask == 1].any()
