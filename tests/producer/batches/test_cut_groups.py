"""Some groups of a batch are cut at once, with and without workers; the others go on, and answers stay."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream import (
    ArgumentError,
    AsyncClient,
    BatchHandle,
    Client,
    ErrorCode,
    GenerationConfig,
    GroupError,
    RedisUnavailableError,
    UnknownBatchError,
)
from rollstream.transport.cuts.scripts import Cut, cut
from tests.support.answers import Answering, result_of
from tests.support.faults import Link, Queue, audit

CONFIG = GenerationConfig(max_new_tokens=4)


async def submitted(trainer: AsyncClient, prompts: int, **options: Any) -> BatchHandle:
    return await trainer.submit([[1 + n] for n in range(prompts)], None, CONFIG, batch_id="b", **options)


def answer(redis_url: str, queue: Queue, groups: int, *numbers: int, good: bool = False) -> None:
    """As a worker does, but for the job."""
    for number in numbers:
        queue.redis.hset(queue.keys.ledger("b"), f"g:{number}", "1-0|w|1")
        if good:
            queue.redis.hincrby(queue.keys.ledger("b"), "good", 1)
        Answering(redis_url, queue.keys.policy, "b", groups).publish(result_of(number, [1 + number], [[9]], "b"))


def codes(redis_url: str, policy: str, groups: int) -> list[str | None]:
    answers = audit(redis_url, policy, "b", groups)
    return [answer.code if isinstance(answer, GroupError) else None for answer in answers]


def field(queue: Queue, name: str) -> Any:
    return queue.redis.hget(queue.keys.ledger("b"), name)


async def test_groups_are_cut_without_a_worker_and_the_batch_goes_on(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue
) -> None:
    handle = await submitted(trainer, 5)

    assert await handle.cancel(groups=[4, 1, 4]) == 2
    assert await handle.done() == 2
    assert (field(queue, "cuts"), field(queue, "cancelled")) == (b"2", None)

    answer(redis_url, queue, 5, 0, 2, 3)
    rollouts = await handle.result(timeout=10)
    assert {number: error.code for number, error in rollouts.errors.items()} == {1: "not_needed", 4: "not_needed"}
    assert "submit its prompt in another batch" in rollouts.errors[1].message
    assert codes(redis_url, policy, 5) == [None, "not_needed", None, None, "not_needed"]


async def test_the_last_groups_that_are_cut_seal_the_batch(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue
) -> None:
    handle = await submitted(trainer, 600)  # more than two slices
    answer(redis_url, queue, 600, 7)

    assert await handle.cancel(groups=range(600)) == 599

    assert codes(redis_url, policy, 600).count(None) == 1
    ledger, results = queue.keys.ledger("b"), queue.keys.results("b")
    assert [0 < queue.redis.ttl(key) <= 86_400 for key in (ledger, results)] == [True, True]
    assert (await handle.result(timeout=10)).errors.keys() == set(range(600)) - {7}


async def test_cutting_again_changes_nothing(trainer: AsyncClient, queue: Queue) -> None:
    handle = await submitted(trainer, 3)
    assert await handle.cancel(groups=[0, 2]) == 2
    before = queue.redis.hgetall(queue.keys.ledger("b"))

    assert await handle.cancel(groups=[0, 2]) == 2
    assert await handle.cancel(groups=[2]) == 1

    assert queue.redis.hgetall(queue.keys.ledger("b")) == before
    assert len(queue.answers("b")) == 2


async def test_a_cut_of_answered_groups_writes_nothing(trainer: AsyncClient, redis_url: str, queue: Queue) -> None:
    handle = await submitted(trainer, 3)
    answer(redis_url, queue, 3, 0, 1)
    before = queue.redis.hgetall(queue.keys.ledger("b"))

    assert await handle.cancel(groups=[0, 1]) == 0
    assert await handle.cancel(groups=[]) == 0

    assert queue.redis.hgetall(queue.keys.ledger("b")) == before


async def test_a_batch_may_be_cancelled_after_some_of_it_was_cut(
    trainer: AsyncClient, redis_url: str, policy: str
) -> None:
    handle = await submitted(trainer, 4)
    assert await handle.cancel(groups=[3]) == 1

    assert await handle.cancel() == 3

    assert await handle.cancel(groups=[0, 3]) == 1
    assert codes(redis_url, policy, 4) == ["cancelled"] * 3 + ["not_needed"]


@pytest.mark.parametrize(
    "groups", [[3], [-1], [True], [1.0], ["1"], "12", 1, [None], np.array([True, False, True]), [2**70]], ids=repr
)
async def test_numbers_of_no_group_are_refused_by_name(trainer: AsyncClient, queue: Queue, groups: Any) -> None:
    handle = await submitted(trainer, 3)

    with pytest.raises(ArgumentError, match=r"groups .*: give numbers of groups from 0 to 2"):
        await handle.cancel(groups=groups)

    assert queue.answers("b") == []


async def test_numbers_of_numpy_and_sets_are_numbers(trainer: AsyncClient) -> None:
    handle = await submitted(trainer, 5)

    assert await handle.cancel(groups=np.array([0, 1])) == 2
    assert await handle.cancel(groups={2, 3}) == 2


@pytest.mark.parametrize("after", [-1, math.nan, math.inf, True, "1", 1e9])
async def test_what_is_no_time_to_wait_is_refused_by_name(trainer: AsyncClient, queue: Queue, after: Any) -> None:
    handle = await submitted(trainer, 1)

    with pytest.raises(ArgumentError, match=r"after .*: give seconds from 0 on"):
        await handle.cancel(after=after)

    assert queue.answers("b") == []


async def test_what_is_late_is_cancelled_after_a_while(trainer: AsyncClient, redis_url: str, queue: Queue) -> None:
    handle = await submitted(trainer, 4)
    waiting = asyncio.create_task(handle.cancel(after=0.5))
    answer(redis_url, queue, 4, 0, 2)

    assert await waiting == 2
    rollouts = await handle.result(timeout=10)
    assert {number: error.code for number, error in rollouts.errors.items()} == {1: "cancelled", 3: "cancelled"}


async def test_a_batch_that_is_complete_in_time_is_not_cancelled_and_nobody_waits_on(
    trainer: AsyncClient, redis_url: str, queue: Queue
) -> None:
    handle = await submitted(trainer, 2)
    waiting = asyncio.create_task(handle.cancel(after=3600))
    answer(redis_url, queue, 2, 0, 1)

    assert await asyncio.wait_for(waiting, 20) == 0
    assert field(queue, "cancelled") is None


async def test_groups_that_are_answered_in_time_are_not_waited_for_with_the_others(
    trainer: AsyncClient, redis_url: str, queue: Queue
) -> None:
    handle = await submitted(trainer, 4)
    waiting = asyncio.create_task(handle.cancel(groups=[1, 2], after=3600))
    answer(redis_url, queue, 4, 1, 2)

    assert await asyncio.wait_for(waiting, 20) == 0
    assert await handle.done() == 2


async def test_a_lost_reply_cuts_once(redis_url: str, policy: str, link: Link, queue: Queue) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as trainer:
        handle = await submitted(trainer, 3)
        link.lose_reply(to=b"not_needed")
        assert await handle.cancel(groups=[0, 1]) == 2
    assert link.lost == 1
    assert (field(queue, "cuts"), field(queue, "done")) == (b"2", b"2")
    assert len(queue.answers("b")) == 2


@pytest.mark.parametrize(("name", "value"), [("cuts", "many"), ("done", "x"), ("done", "-7"), ("groups", "none")])
async def test_a_ledger_with_numbers_that_cannot_be_is_a_typed_error_and_nothing_is_written(
    trainer: AsyncClient, queue: Queue, name: str, value: str
) -> None:
    handle = await submitted(trainer, 3)
    queue.redis.hset(queue.keys.ledger("b"), name, value)

    with pytest.raises(RedisUnavailableError):
        await handle.cancel(groups=[0])

    assert queue.answers("b") == []
    assert field(queue, "g:0") is None


async def test_a_refused_answer_leaves_no_group_marked(trainer: AsyncClient, queue: Queue) -> None:
    handle = await submitted(trainer, 3)
    queue.redis.set(queue.keys.results("b"), "x")

    with pytest.raises(RedisUnavailableError, match="something else wrote"):
        await handle.cancel(groups=[0])

    assert (field(queue, "g:0"), field(queue, "done")) == (None, b"0")
    queue.redis.delete(queue.keys.results("b"))
    assert await handle.cancel(groups=[0]) == 1


async def test_a_batch_that_is_gone_cannot_be_cut(trainer: AsyncClient, queue: Queue) -> None:
    handle = await submitted(trainer, 1)
    queue.redis.delete(queue.keys.ledger("b"))

    with pytest.raises(UnknownBatchError, match="'b'"):
        await handle.cancel(groups=[0])

    assert not queue.redis.exists(queue.keys.ledger("b"), queue.keys.results("b"))


async def test_rows_to_score_are_cut_too(trainer: AsyncClient, redis_url: str, policy: str, queue: Queue) -> None:
    handle = await trainer.submit_scores([[1, 2], [3, 4], [5, 6]], batch_id="b")

    assert await handle.cancel(groups=[1]) == 1
    assert await handle.cancel(after=0.05) == 2

    scores = await handle.result(timeout=10)
    assert {number: error.code for number, error in scores.errors.items()} == {
        0: "cancelled", 1: "not_needed", 2: "cancelled",
    }  # fmt: skip


def test_the_blocking_client_cuts_too(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as blocking:
        handle = blocking.submit([[1], [2]], None, CONFIG)

        assert handle.cancel(groups=[0]) == 1
        assert handle.cancel(after=0.05) == 1

        assert [error.code for error in handle.result(timeout=30).errors.values()] == ["not_needed", "cancelled"]


async def test_a_reader_cuts_the_rest_where_the_worker_died_before_it_could(
    redis_url: str, policy: str, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("redis_io.connection", "batches.results_reader"):
        monkeypatch.setattr(f"rollstream.producer.{module}.BLOCK_MS", 100)
    async with AsyncClient(redis_url, policy=policy) as trainer:
        handle = await submitted(trainer, 5, first_groups=2)
        answer(redis_url, queue, 5, 1, 4, good=True)

        rollouts = await handle.result(timeout=30)

    cut = {number: (error.code, error.field, error.worker) for number, error in rollouts.errors.items()}
    assert cut == dict.fromkeys((0, 2, 3), (ErrorCode.NOT_NEEDED, "first_groups", "producer"))
    assert codes(redis_url, policy, 5) == ["not_needed", None, "not_needed", "not_needed", None]


CUT = Cut(batch_id="b", num_groups=3, tokens_per_group=4, by="w", keep_s=60, only_if_enough=True)


async def test_only_a_batch_that_has_enough_is_cut(
    trainer: AsyncClient, redis_url: str, redis: Redis, queue: Queue
) -> None:
    await submitted(trainer, 3, first_groups=2)
    answer(redis_url, queue, 3, 1, good=True)
    assert await cut(redis, queue.keys, CUT, [0, 2]) == "wanted"

    answer(redis_url, queue, 3, 0, good=True)
    assert await cut(redis, queue.keys, CUT, [0, 2]) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("first_groups", "x"), ("good", "x"), ("good", "-1"), ("first_groups", "nan"), ("first_groups", "-1")],
)
async def test_what_is_no_number_of_groups_cuts_nothing(
    trainer: AsyncClient, redis_url: str, redis: Redis, queue: Queue, name: str, value: str
) -> None:
    await submitted(trainer, 3, first_groups=1)
    answer(redis_url, queue, 3, 1, good=True)
    queue.redis.hset(queue.keys.ledger("b"), name, value)

    assert await cut(redis, queue.keys, CUT, [0, 2]) == "wanted"

    assert len(queue.answers("b")) == 1
