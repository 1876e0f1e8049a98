"""Scores go through the queue like completions: in order, once, to this process and others, failed rows by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis
import torch

from rollstream import (
    ArgumentError,
    AsyncClient,
    BatchConflictError,
    Client,
    ErrorCode,
    GenerationConfig,
    GroupScores,
    PromptsError,
    ResultTimeoutError,
    ScoreBatch,
    ScoreHandle,
    UnknownBatchError,
    UnreadableResultError,
)
from rollstream.producer.blocking_client import BlockingScoreHandle
from rollstream.schemas import Keys, Tensor, encode
from rollstream.worker.engines.stub_likelihoods import likelihoods
from tests.support.answers import Answering
from tests.support.fault_steps import kill, stub
from tests.support.faults import Queue
from tests.support.reports import report_of
from tests.support.worker_process import WorkerProcess, wait_for

ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


def scores_of(row: int, columns: int, batch_id: str, **changes: Any) -> GroupScores:
    fields: dict[str, Any] = {
        "batch_id": batch_id, "group": row, "policy_version": 3, "worker": "w", "queued_s": 0.0, "score_s": 0.0,
        "logprobs": Tensor.of(np.arange(-1, -1 - columns, -1).astype(np.float32)),
    }  # fmt: skip
    return GroupScores(**fields | changes)


def test_a_worker_scores_rows_and_rollouts(redis_url: str, policy: str, stub_worker: WorkerProcess) -> None:
    with Client(redis_url, policy=policy) as client:
        scores = client.score(ROWS, first=None, top_logprobs=2, rows_per_job=2, timeout=30)
        rollouts = client.generate(ROWS, config=GenerationConfig(max_new_tokens=3, num_return_sequences=2), timeout=30)
        of_rollouts = client.score(rollouts, timeout=30)

    for row, ids in enumerate(ROWS):
        expected = torch.from_numpy(likelihoods(ids, 1, "", 0, 2)[:, 0].copy())
        assert torch.equal(scores.log_probs[row, : len(ids) - 1], expected)
    assert scores.scored_mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert scores.top_token_ids is not None
    assert scores.top_token_ids.shape == (3, 3, 2)
    assert (scores.versions.tolist(), scores.errors) == ([0, 0, 0], {})
    assert rollouts.old_log_probs is not None
    assert of_rollouts.scored_mask.tolist() == rollouts.response_mask[:, rollouts.prompt_len :].tolist()
    assert torch.equal(of_rollouts.log_probs, rollouts.old_log_probs)
    assert repr(scores).endswith("3 rows, 3 columns, 2 candidates>")


def test_bad_rows_of_a_job_fail_by_name_and_its_good_ones_are_scored(redis_url: str, policy: str) -> None:
    rows = [[5, 6, 7], [7, 10**6], [8, 9], [4] * 13, [10, 11]]
    mask = [[0] * 2 if row == [8, 9] else [1] * len(row) for row in rows]
    with stub(redis_url, policy, "--max-model-len", "12"), Client(redis_url, policy=policy) as client:
        handle = client.submit_scores(rows, mask)
        scores = handle.result(timeout=30)

    assert handle.batch.num_jobs == 1
    assert {row: error.code for row, error in scores.errors.items()} == {
        1: ErrorCode.TOKEN_OUT_OF_VOCABULARY,
        2: ErrorCode.EMPTY_PROMPT,
        3: ErrorCode.TOO_LONG,
    }
    assert scores.versions.tolist() == [0, -1, -1, -1, 0]
    assert scores.scored_mask.sum(1).tolist() == [2, 0, 0, 0, 1]
    assert scores.log_probs[1:4].count_nonzero() == 0
    for row in (0, 4):
        expected = torch.from_numpy(likelihoods(rows[row], 1, "", 0, 0)[:, 0].copy())
        assert torch.equal(scores.log_probs[row, : len(expected)], expected)


async def test_rows_come_in_finish_order_and_another_process_may_attach(
    trainer: AsyncClient, redis_url: str, policy: str
) -> None:
    handle = await trainer.submit_scores(ROWS, first=1, batch_id="b")
    Answering(redis_url, policy, "b", 3).publish(*(scores_of(row, len(ROWS[row]) - 1, "b") for row in (2, 0, 1)))
    assert [answer.group async for answer in handle.groups(10)] == [2, 0, 1]
    async with AsyncClient(redis_url, policy=policy) as other:
        attached = await other.attach("b")
        assert isinstance(attached, ScoreHandle)
        scores = await attached.result(timeout=10)
    assert scores.log_probs.tolist() == [[-1, -2, -3], [-1, 0, 0], [-1, -2, 0]]
    assert scores.versions.tolist() == [3, 3, 3]
    assert repr(attached).startswith("<ScoreHandle batch_id=b 3/3")


async def test_a_submit_is_repeated_and_other_content_is_a_conflict(trainer: AsyncClient) -> None:
    first = await trainer.submit_scores(ROWS, batch_id="b")
    assert await trainer.submit_scores(ROWS, batch_id="b") == first
    with pytest.raises(BatchConflictError):
        await trainer.submit_scores(ROWS, batch_id="b", top_logprobs=1)
    with pytest.raises(BatchConflictError):
        await trainer.submit(ROWS, None, GenerationConfig(max_new_tokens=1), batch_id="b")


def test_a_killed_workers_scores_come_once_from_another(redis_url: str, policy: str, queue: Queue) -> None:
    with Client(redis_url, policy=policy) as client:
        handle = client.submit_scores(ROWS)
        with stub(redis_url, policy, group_s=600.0, at_once=1) as first:
            wait_for(lambda: bool(queue.holders()), 20, lambda: first.log)
            kill(first)
        with stub(redis_url, policy):
            groups = list(handle.groups(timeout=30))

    assert sorted(answer.group for answer in groups) == [0, 1, 2]
    assert {answer.delivery for answer in groups if isinstance(answer, GroupScores)} == {2}


def test_a_cancelled_batch_is_complete_without_a_worker(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as client:
        client.submit_scores(ROWS, batch_id="b")
        attached = client.attach("b")
        assert isinstance(attached, BlockingScoreHandle)
        assert (attached.cancel(), attached.done()) == (3, 3)
        result = attached.result(timeout=10)
    assert isinstance(result, ScoreBatch)
    assert {error.code for error in result.errors.values()} == {ErrorCode.CANCELLED}
    assert result.scored_mask.sum() == 0


async def test_a_timeout_names_the_batch_that_goes_on(trainer: AsyncClient) -> None:
    with pytest.raises(ResultTimeoutError, match=r"0 of 3 groups after 0\.2 s") as raised:
        await trainer.score(ROWS, timeout=0.2)
    assert (await trainer.attach(raised.value.batch_id)).num_groups == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logprobs": Tensor.of(np.zeros(2, np.float32))}, "2 log-probs, 3 tokens of the row are scored"),
        (
            {
                "top_token_ids": Tensor.of(np.zeros((3, 2), np.int32)),
                "top_logprobs": Tensor.of(np.zeros((3, 2), np.float32)),
            },
            "2 candidates for each token, top_logprobs is 0",
        ),
        ({"logprobs": Tensor.of(np.array([-1, 0.5, -1], np.float32))}, "a log-prob is 0.5, which is above 0"),
        ({"adapter": "a@1"}, "scored with adapter 'a@1', asked for: None"),
        ({"group": 3}, "group 3 of 3"),
        ({"batch_id": "c"}, "belongs to batch 'c'"),
    ],
)
async def test_scores_of_another_shape_are_refused(
    trainer: AsyncClient, redis_url: str, policy: str, changes: dict[str, Any], words: str
) -> None:
    handle = await trainer.submit_scores(ROWS, batch_id="b")
    good = [scores_of(row, len(ROWS[row]) - 1, "b") for row in (1, 2)]
    bad = scores_of(0, 3, "b").model_copy(update=changes)
    Answering(redis_url, policy, "b", 3).publish(bad, *good)
    with pytest.raises(UnreadableResultError, match=words):
        await handle.result(timeout=10)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("ids", "log_probs", "words"),
    [
        ([1, 2], [-1.0, NAN], "a candidate's log-prob is no number"),
        ([1, 2], [INF, -1.0], "a candidate's log-prob is inf, which is above 0"),
        ([1, 2], [0.25, -1.0], "a candidate's log-prob is 0.25, which is above 0"),
        ([1, 2], [-INF, -INF], "no candidate of a token has a log-prob above minus infinity"),
        ([1, 2], [-2.0, -1.0], "are not sorted, the likeliest first"),
        ([1, 1], [-1.0, -2.0], "an id stands twice among a token's candidates"),
    ],
)
async def test_candidates_that_cannot_be_are_refused(
    trainer: AsyncClient, redis_url: str, policy: str, ids: list[int], log_probs: list[float], words: str
) -> None:
    handle = await trainer.submit_scores([[5, 6, 7]], top_logprobs=2, batch_id="b")
    tops = Tensor.of(np.array([[3, 4], ids], np.int32)), Tensor.of(np.array([[-1, -2], log_probs], np.float32))
    bad = scores_of(0, 2, "b", top_token_ids=tops[0], top_logprobs=tops[1])
    Answering(redis_url, policy, "b", 1).publish(bad)
    with pytest.raises(UnreadableResultError, match=words):
        await handle.result(timeout=10)


async def test_a_description_cannot_ask_for_memory_that_its_scores_do_not_fill(
    trainer: AsyncClient, redis_url: str, policy: str
) -> None:
    handle = await trainer.submit_scores(ROWS, batch_id="b")
    Answering(redis_url, policy, "b", 3).publish(*(scores_of(row, len(ROWS[row]) - 1, "b") for row in range(3)))
    with redis.Redis.from_url(redis_url) as server:
        wide = handle.batch.model_copy(update={"width": 2**30})
        server.hset(Keys(policy).ledger("b"), "batch", encode(wide))
    with pytest.raises(UnreadableResultError, match="width is 1073741824, which makes"):
        await (await trainer.attach("b")).result(timeout=10)


@pytest.mark.parametrize(("limits", "refused"), [(("20", "8"), True), (("20", "64"), False), (("20", ""), False)])
async def test_more_candidates_than_every_live_worker_gives_are_refused_at_submit(
    trainer: AsyncClient, redis_url: str, policy: str, limits: tuple[str, ...], *, refused: bool
) -> None:
    with redis.Redis.from_url(redis_url) as server:
        for number, limit in enumerate(limits):
            report_of(server, Keys(policy), f"w{number}", {"state": "serving", "max_logprobs": limit})
    assert (await trainer.submit_scores(ROWS, top_logprobs=20)).num_groups == 3
    if not refused:
        assert (await trainer.submit_scores(ROWS, top_logprobs=21)).num_groups == 3
        return
    with pytest.raises(ArgumentError, match="top_logprobs 21: no live worker gives more than 20"):
        await trainer.submit_scores(ROWS, top_logprobs=21, batch_id="b")
    with pytest.raises(UnknownBatchError):
        await trainer.attach("b")


@pytest.mark.parametrize("top_logprobs", ["8", [1], 1.5, True, None, -1, 129], ids=repr)
async def test_another_top_logprobs_is_refused_whatever_the_workers_say(
    trainer: AsyncClient, redis_url: str, policy: str, top_logprobs: Any
) -> None:
    with redis.Redis.from_url(redis_url) as server:
        report_of(server, Keys(policy), "w", {"state": "serving", "max_logprobs": "64"})
    with pytest.raises(ArgumentError, match=r"top_logprobs .*: give an integer from 0 to 128$"):
        await trainer.score(ROWS, top_logprobs=top_logprobs)


@pytest.mark.parametrize("call", ["score", "submit_scores", "submit", "generate"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: None, "got NoneType"),
        (lambda: (row for row in ROWS), r"got generator.*write list\(\.\.\.\) around it"),
        (lambda: 5, "got int"), (lambda: torch.tensor(5), r"shape \(\)"), (lambda: [], "give at least one row"),
    ],
    ids=["None", "generator", "int", "no dimension", "empty"],
)  # fmt: skip
async def test_what_has_no_rows_is_refused_by_every_call(
    trainer: AsyncClient, call: str, given: Callable[[], Any], words: str
) -> None:
    options = {} if "score" in call else {"config": GenerationConfig(max_new_tokens=1)}
    with pytest.raises(PromptsError, match=words):
        await getattr(trainer, call)(given(), **options)


async def test_rollouts_say_themselves_where_their_responses_are(
    trainer: AsyncClient, stub_worker: WorkerProcess
) -> None:
    rollouts = await trainer.generate(ROWS, config=GenerationConfig(max_new_tokens=2), timeout=30)
    with pytest.raises(ArgumentError, match="first 3: leave it out: rollouts say themselves"):
        await trainer.score(rollouts, first=3)
    with pytest.raises(PromptsError, match="row 1: one token"):
        await trainer.score([[1, 2], [3]])
    with pytest.raises(PromptsError, match="input_ids: no rows: these rollouts have none"):
        await trainer.score(rollouts.select([False] * 3))
