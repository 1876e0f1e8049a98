"""A cancelled batch is complete at once, with and without workers; answers stay, and nothing more is queued."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from typer.testing import CliRunner

from rollstream import (
    AsyncClient,
    BatchCancelledError,
    BatchHandle,
    Client,
    DeadlineError,
    ErrorCode,
    GenerationConfig,
    GroupError,
    GroupResult,
    RedisUnavailableError,
    UnknownBatchError,
)
from rollstream.producer.cli.app import app
from rollstream.schemas import Job, decode
from tests.support.answers import Answering, result_of
from tests.support.fault_steps import stub, tokens, wait_until_done
from tests.support.faults import Link, Queue, audit
from tests.support.worker_process import wait_for

CONFIG = GenerationConfig(max_new_tokens=4)


async def submitted(trainer: AsyncClient, prompts: int, batch_id: str = "b") -> BatchHandle:
    return await trainer.submit([[1 + n] for n in range(prompts)], None, CONFIG, batch_id=batch_id)


def codes(answers: list[GroupResult | GroupError]) -> list[str]:
    return [answer.code if isinstance(answer, GroupError) else "result" for answer in answers]


def command(redis_url: str, policy: str, *args: str) -> Any:
    return CliRunner(env={"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}).invoke(app, list(args))


async def test_a_batch_that_nobody_runs_is_complete_once_cancelled(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue
) -> None:
    handle = await submitted(trainer, 600)  # more than two slices
    waiting = asyncio.create_task(handle.result(timeout=10))
    assert await handle.cancel() == 600
    rollouts = await waiting
    assert sorted(rollouts.errors) == list(range(600))
    assert {error.code for error in rollouts.errors.values()} == {ErrorCode.CANCELLED}
    assert rollouts.sequences.shape[0] == 600
    assert codes(audit(redis_url, policy, "b", 600)) == ["cancelled"] * 600
    ledger, results = queue.keys.ledger("b"), queue.keys.results("b")
    assert float(queue.redis.hget(ledger, "cancelled")) > 0  # type: ignore[arg-type]
    assert [0 < queue.redis.ttl(key) <= 86_400 for key in (ledger, results)] == [True, True]


async def test_up_to_256_groups_are_marked_and_answered_in_one_step_so_that_no_worker_answers_between(
    trainer: AsyncClient, queue: Queue
) -> None:
    def calls() -> int:
        stats: Any = queue.redis.info("commandstats")
        return int(stats.get("cmdstat_eval", {"calls": 0})["calls"])

    handle, before = await submitted(trainer, 256), calls()
    assert await handle.cancel() == 256
    assert calls() == before + 1


async def test_cancelling_again_changes_nothing(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue
) -> None:
    handle = await submitted(trainer, 3)
    assert await handle.cancel() == 3
    before = queue.redis.hgetall(queue.keys.ledger("b"))
    assert await handle.cancel() == 3
    assert queue.redis.hgetall(queue.keys.ledger("b")) == before
    audit(redis_url, policy, "b", 3)


async def test_answered_groups_keep_their_answers(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue
) -> None:
    """A slow worker has answered some of a job and runs the others when the batch is cancelled."""
    with stub(redis_url, policy, group_s=1.0, at_once=2) as worker:
        handle = await trainer.submit([[n] for n in range(1, 41)], None, tokens(), batch_id="b", prompts_per_job=40)
        await asyncio.to_thread(wait_until_done, queue, "b", 2, worker)
        cancelled = await handle.cancel()
        rollouts = await handle.result(timeout=30)
        assert 1 <= cancelled <= 38
        assert {error.code for error in rollouts.errors.values()} == {"cancelled"}
        assert len(rollouts.errors) == cancelled
        await asyncio.to_thread(wait_for, lambda: queue.holders() == {}, 30, lambda: worker.log)
        answers = audit(redis_url, policy, "b", 40)
    assert [answer.group for answer in answers if isinstance(answer, GroupError)] == sorted(rollouts.errors)


async def test_a_complete_batch_is_left_as_it_is(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue
) -> None:
    handle = await submitted(trainer, 1)
    Answering(redis_url, policy, "b", 1).publish(result_of(0, [1], [[9]], "b"))
    assert await handle.cancel() == 0
    assert (await handle.result(timeout=30)).errors == {}
    assert not queue.redis.hexists(queue.keys.ledger("b"), "cancelled")


async def test_a_refused_answer_leaves_no_group_marked(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue
) -> None:
    handle = await submitted(trainer, 3)
    queue.redis.set(queue.keys.results("b"), "x")
    with pytest.raises(RedisUnavailableError, match="something else wrote"):
        await handle.cancel()
    marked: Any = queue.redis.hkeys(queue.keys.ledger("b"))
    assert [field for field in marked if field.startswith(b"g:")] == []
    queue.redis.delete(queue.keys.results("b"))
    assert await handle.cancel() == 3
    audit(redis_url, policy, "b", 3)


@pytest.mark.parametrize("command", ["hsetnx", "hincrby"])
async def test_a_right_that_is_missing_is_found_before_anything_is_answered(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue, command: str
) -> None:
    handle = await submitted(trainer, 3)
    user = f"cancel-without-{command}"
    queue.redis.acl_setuser(user, enabled=True, passwords=["+pw"], commands=["+@all", f"-{command}"], keys=["*"])
    async with AsyncClient(redis_url.replace("://", f"://{user}:pw@"), policy=policy) as limited:
        attached = await limited.attach("b")
        with pytest.raises(RedisUnavailableError, match="this user lacks "):
            await attached.cancel()
    assert queue.answers("b") == []
    assert await handle.cancel() == 3
    audit(redis_url, policy, "b", 3)


FIRST_SLICE, LAST_SLICE = b"*270\r\n$4\r\nEVAL", b"*15\r\n$4\r\nEVAL"
"""How the calls of cancelling 257 groups begin on the wire: with the number of their arguments."""


@pytest.mark.parametrize("request_head", [FIRST_SLICE, LAST_SLICE])
async def test_a_lost_reply_cancels_once(redis_url: str, policy: str, link: Link, request_head: bytes) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as trainer:
        handle = await submitted(trainer, 257)
        link.lose_reply(to=request_head)
        assert await handle.cancel() == 257
    assert link.lost == 1
    audit(redis_url, policy, "b", 257)


async def test_a_cancel_that_died_half_way_is_completed(
    redis_url: str, policy: str, link: Link, trainer: AsyncClient
) -> None:
    handle = await submitted(trainer, 257)
    async with AsyncClient(link.url, policy=policy, reconnect_s=0) as dying:
        attached = await dying.attach("b")
        link.lose_reply(to=FIRST_SLICE)
        with pytest.raises(RedisUnavailableError, match="cannot cancel"):
            await attached.cancel()
    assert link.lost == 1
    assert await handle.done() == 256
    assert await handle.cancel() == 257
    audit(redis_url, policy, "b", 257)


async def test_a_cancelled_batch_takes_no_more_jobs(trainer: AsyncClient, queue: Queue) -> None:
    """Neither those that a submit left out when it died, nor the same ones again."""
    handle = await trainer.submit([[1], [2], [3]], None, CONFIG, batch_id="b", prompts_per_job=1)
    queue.redis.hdel(queue.keys.ledger("b"), "job:2")
    queue.redis.xdel(queue.jobs_key, queue.entries()[-1][0])
    await handle.cancel()
    with pytest.raises(BatchCancelledError, match="'b' was cancelled: submit under another batch_id"):
        await trainer.submit([[1], [2], [3]], None, CONFIG, batch_id="b", prompts_per_job=1)
    assert len(queue.entries()) == 2
    assert await handle.done() == 3


async def test_a_batch_that_is_gone_cannot_be_cancelled(trainer: AsyncClient, queue: Queue) -> None:
    handle = await submitted(trainer, 1)
    queue.redis.delete(queue.keys.ledger("b"))
    with pytest.raises(UnknownBatchError, match="'b'"):
        await handle.cancel()
    assert not queue.redis.exists(queue.keys.ledger("b"), queue.keys.results("b"))


def test_the_blocking_client_cancels_too(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as blocking:
        handle = blocking.submit([[1], [2]], None, CONFIG)
        assert handle.cancel() == 2
        assert set(handle.result(timeout=30).errors) == {0, 1}


def test_the_command_says_how_many_had_finished(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as blocking:
        blocking.submit([[1], [2], [3]], None, CONFIG, batch_id="b")
        Answering(redis_url, policy, "b", 3).publish(result_of(1, [2], [[9]], "b"))
        # by hand, as the worker's script does
        with Queue(redis_url, policy) as queue:
            queue.redis.hset(queue.keys.ledger("b"), "g:1", "entry|w|1")
    first, again = (command(redis_url, policy, "cancel", "b") for _ in range(2))
    assert (first.exit_code, first.stdout) == (0, "2 of 3 groups cancelled, 1 had their answers\n")
    assert (again.exit_code, again.stdout) == (first.exit_code, first.stdout)
    counts = json.loads(command(redis_url, policy, "cancel", "b", "--json").stdout)
    assert counts == {"batch_id": "b", "groups": 3, "answered": 1, "cancelled": 2}
    unknown = command(redis_url, policy, "cancel", "other")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("rollstream: batch 'other' of policy")


# Deadlines


async def test_deadlines_travel_in_every_job_and_are_no_content(trainer: AsyncClient, queue: Queue) -> None:
    prompts = [[1], [2]]
    handle = await trainer.submit(
        prompts, None, CONFIG, batch_id="b", prompts_per_job=1, queue_deadline_s=60, run_deadline_s=2.5
    )
    jobs = [decode(fields[b"payload"], Job) for _, fields in queue.entries()]
    assert [(job.queue_deadline_s, job.run_deadline_s) for job in jobs] == [(60.0, 2.5)] * 2
    assert await trainer.submit(prompts, None, CONFIG, batch_id="b", prompts_per_job=1) == handle
    assert len(queue.entries()) == 2


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e9, True, "60"])
@pytest.mark.parametrize("name", ["queue_deadline_s", "run_deadline_s"])
async def test_what_is_no_deadline_is_refused_before_anything_is_queued(
    trainer: AsyncClient, queue: Queue, name: str, seconds: Any
) -> None:
    with pytest.raises(DeadlineError, match=f"{name} .* give seconds above 0"):
        await trainer.submit([[1]], None, CONFIG, **{name: seconds})
    assert queue.entries() == []


def test_the_command_passes_deadlines_on(redis_url: str, policy: str, queue: Queue) -> None:
    row = '{"prompt_token_ids": [1]}\n'
    flags = ["submit", "-", "--max-new-tokens", "4", "--queue-deadline-s", "9", "--run-deadline-s"]
    env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}
    done = CliRunner(env=env).invoke(app, [*flags, "0.5"], input=row)
    assert done.exit_code == 0, done.stderr
    (job,) = [decode(fields[b"payload"], Job) for _, fields in queue.entries()]
    assert (job.queue_deadline_s, job.run_deadline_s) == (9.0, 0.5)
    refused = CliRunner(env=env).invoke(app, [*flags, "-1"], input=row)
    assert (refused.exit_code, refused.stderr.splitlines()[0][:36]) == (1, "rollstream: run_deadline_s -1.0: giv")
