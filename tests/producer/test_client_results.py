"""Results arrive once and in order, to as many as wait for them, in a running loop and without one."""

from __future__ import annotations

import asyncio
import re

import pytest
import torch

from rollstream import (
    AsyncClient,
    BlockingBatchHandle,
    Client,
    ClientClosedError,
    GenerationConfig,
    GroupError,
    GroupResult,
    ResultTimeoutError,
)
from rollstream.schemas import encode
from tests.support.answers import Answering, error_of, result_of
from tests.support.batches import CONFIG, PROMPTS, answering, result
from tests.support.faults import Link
from tests.support.worker_process import WorkerProcess


async def test_groups_come_in_finish_order_and_the_result_in_submission_order(
    trainer: AsyncClient, redis_url: str, policy: str
) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.publish(*(result(handle, group) for group in (2, 0, 3, 1)))
    assert [answer.group async for answer in handle.groups()] == [2, 0, 3, 1]
    rollouts = await handle.result()
    assert rollouts.sequences.tolist() == [[0, 1, 2, 10], [0, 0, 3, 11], [4, 5, 6, 12], [0, 0, 7, 13]]
    assert repr(handle).endswith("4/4 groups>")


async def test_a_group_is_there_before_the_batch_is_complete(trainer: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    worker, groups = answering(redis_url, policy, handle), handle.groups()
    worker.publish(result(handle, 1))
    assert (await anext(groups)).group == 1
    assert await handle.done() == 1
    assert [answer.group for answer in await handle.finished()] == [1]
    waiting = asyncio.ensure_future(anext(groups))
    worker.publish(result(handle, 3))
    assert (await waiting).group == 3


async def test_result_may_be_called_again_and_beside_groups(trainer: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)

    async def all_groups() -> list[int]:
        return [answer.group async for answer in handle.groups()]

    together = asyncio.gather(handle.result(), all_groups(), all_groups())
    answering(redis_url, policy, handle).publish(*(result(handle, group) for group in (3, 2, 1, 0)))
    rollouts, *orders = await together
    again = await handle.result(pad_to_max_new_tokens=True, pad_token_id=9)
    assert orders == [[3, 2, 1, 0]] * 2
    assert rollouts.response_len == 1
    assert (again.response_len, again.sequences[1].tolist()) == (4, [9, 9, 3, 11, 9, 9, 9])


@pytest.mark.parametrize(
    ("size", "expected"), [(1, [1, 2, 4, 8, 16]), (300_000, [1, 2, 3, 3, 3, 3]), (2_000_000, [1] * 9)]
)
async def test_a_read_asks_for_a_megabyte_of_results(
    redis_url: str, policy: str, link: Link, size: int, expected: list[int]
) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as trainer:
        groups = min(sum(expected), 9 + 6)
        handle = await trainer.submit([[1]] * groups, None, CONFIG, batch_id="b")
        answered = Answering(redis_url, policy, "b", groups)
        answered.publish(
            *(error_of(group, batch_id="b").model_copy(update={"message": "x" * size}) for group in range(groups))
        )
        link.requests = bytearray()
        await handle.wait(30)
    asked = [int(count) for count in re.findall(rb"COUNT\r\n\$\d+\r\n(\d+)\r\n", bytes(link.requests))]
    assert asked == expected[: len(asked)]
    assert sum(asked) >= groups


async def test_another_client_attaches_by_batch_id(trainer: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG, batch_id="b", adapter="math@3")
    answering(redis_url, policy, handle).publish(*(result(handle, group) for group in range(4)))
    async with AsyncClient(redis_url, policy=policy) as other:
        attached = await other.attach("b")
        rollouts = await attached.result(timeout=20)
    assert attached.batch == handle.batch
    assert len(rollouts) == 4


async def test_a_timeout_says_how_far_it_came_and_waiting_may_go_on(
    trainer: AsyncClient, redis_url: str, policy: str
) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.publish(result(handle, 0), result(handle, 1))
    with pytest.raises(ResultTimeoutError, match=r"2 of 4 groups after 0\.5 s") as caught:
        await handle.result(timeout=0.5)
    assert (caught.value.done, caught.value.total) == (2, 4)
    worker.publish(result(handle, 2), result(handle, 3))
    assert len(await handle.result(timeout=20)) == 4


async def test_a_second_result_for_a_group_is_ignored(trainer: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await trainer.submit([[1, 2]], None, CONFIG)
    worker = answering(redis_url, policy, handle)
    for delivery in (1, 2):
        worker.write(b"group", encode(result(handle, 0, delivery=delivery)))
    answers = [answer async for answer in handle.groups()]
    assert [answer.delivery for answer in answers if isinstance(answer, GroupResult)] == [1]


async def test_failed_groups_are_answers_too(trainer: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.publish(error_of(0, PROMPTS[0], handle.batch_id), *(result(handle, group) for group in (1, 2, 3)))
    rollouts = await handle.result(timeout=20)
    assert list(rollouts.errors) == [0]
    assert rollouts.finish_reasons == ("error", "stop", "stop", "stop")


def test_the_blocking_client_does_the_same(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as trainer:
        handle = trainer.submit(PROMPTS, None, CONFIG, batch_id="b")
        worker = Answering(redis_url, policy, "b", 4)
        worker.publish(*(result_of(group, PROMPTS[group], [[10 + group]], "b") for group in (2, 0, 3, 1)))
        assert [answer.group for answer in handle.groups()] == [2, 0, 3, 1]
        attached = trainer.attach("b")
        assert isinstance(attached, BlockingBatchHandle)
        assert attached.result(timeout=20).response_lengths.tolist() == [1, 1, 1, 1]
        assert handle.done() == len(handle.finished()) == 4
        assert list(handle.wait(timeout=20)) == [2, 0, 3, 1]
        assert (trainer.attach("b"), hash(trainer.attach("b"))) == (handle, hash(handle))
        assert repr(handle) == "<BlockingBatchHandle batch_id=b 4/4 groups>"
    with pytest.raises(ClientClosedError):
        handle.done()


async def test_the_blocking_client_works_inside_a_running_loop(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as trainer:
        handle = trainer.submit([[1]], None, CONFIG)
        with pytest.raises(ResultTimeoutError):
            handle.result(timeout=0.2)


def test_prompts_go_in_and_padded_rollouts_come_out(
    stub_worker: WorkerProcess, redis_url: str, policy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = GenerationConfig(max_new_tokens=6, num_return_sequences=3, seed=1)
    mask = torch.tensor([[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]])
    with Client(redis_url, policy=policy) as trainer:
        rollouts = trainer.generate(
            torch.arange(1, 13).view(4, 3), mask, config, timeout=60, progress=True, pad_to_max_new_tokens=True
        )
    assert rollouts.sequences.shape == (12, 3 + 6)
    assert [rollouts.sequences[3 * g][rollouts.prompt_mask[3 * g].bool()].tolist() for g in (0, 1, 3)] == [
        [2, 3], [4, 6], [10, 11, 12],
    ]  # fmt: skip
    assert list(rollouts.errors) == [2]
    assert isinstance(rollouts.errors[2], GroupError)
    assert rollouts.errors[2].code == "empty_prompt"
    assert rollouts.response_lengths.view(4, 3)[2].tolist() == [0, 0, 0]
    assert "4/4" in capfd.readouterr().err
