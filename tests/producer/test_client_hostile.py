"""Hostile, missing and deleted results become typed errors, and no call waits for them for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import numpy as np
import pytest

from rollstream import AsyncClient, BatchHandle, ResultTimeoutError, UnknownBatchError, UnreadableResultError
from rollstream.schemas import Keys, Sealed, Tensor, encode
from tests.support.answers import error_of, result_of
from tests.support.batches import CONFIG, PROMPTS, answering, result


@pytest.fixture(autouse=True)
def short_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a wait is looked for between two blocking reads."""
    monkeypatch.setattr("rollstream.producer.redis_io.connection.BLOCK_MS", 100)


def _changed(handle: BatchHandle, **changes: Any) -> bytes:
    return bytes(msgpack.packb(result(handle, 0).model_dump() | changes))


def sealed(handle: BatchHandle) -> bytes:
    return encode(Sealed(batch_id=handle.batch_id, num_groups=handle.num_groups))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (lambda _: b"\xc1rubbish", "not a readable msgpack"),
        (lambda h: encode(result(h, 0))[:-3], "truncated"),
        (lambda h: _changed(h, v=2), "wire version 2"),
        (lambda h: _changed(h, kind="job"), "kind 'job'"),
        (lambda _: encode(result_of(0, [1], [[5]], "another")), "belongs to batch 'another'"),
        (lambda h: encode(error_of(4, None, h.batch_id)), "group 4 of 4"),
        (lambda h: encode(result_of(0, [1], [[5], [6]], h.batch_id)), "2 completions, num_return_sequences is 1"),
        (lambda h: encode(result_of(0, [1], [[5] * 5], h.batch_id)), "max_new_tokens is 4"),
        (lambda h: encode(result_of(0, [1] * 4, [[5]], h.batch_id)), "a prompt of 4 tokens"),
        (lambda h: encode(result(h, 0, logprobs=None, logprobs_flavour=None)), "logprobs are absent"),
        (lambda h: _changed(h, lengths=Tensor.of(np.array([9], np.int32)).model_dump()), "lengths"),
        (
            lambda h: encode(result_of(0, [1], [[5]], h.batch_id, sample_index=Tensor.of(np.array([1], np.int32)))),
            "sample_index names sample 1, num_return_sequences is 1",
        ),
        (lambda h: encode(result_of(0, [1], [[-5]], h.batch_id)), "a negative token id in a completion"),
        (lambda h: encode(result_of(0, [-1], [[5]], h.batch_id)), "a negative token id in the prompt"),
        (lambda h: encode(error_of(0, [1] * 4, h.batch_id)), "a prompt of 4 tokens"),
        (lambda h: encode(Sealed(batch_id=h.batch_id, num_groups=4)), "sealed with 0 of 4 groups"),
        (lambda h: encode(Sealed(batch_id=h.batch_id, num_groups=3)), "seals 3 groups"),
    ],
)
async def test_hostile_results_are_typed_errors_at_every_call(
    trainer: AsyncClient, redis_url: str, policy: str, payload: Any, words: str
) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.write(b"group", payload(handle))
    worker.write(b"sealed", sealed(handle))
    for call in (handle.result, handle.result, handle.finished, handle.groups().__anext__):
        async with asyncio.timeout(20):
            with pytest.raises(UnreadableResultError, match=words) as caught:
                await call()
    assert caught.value.batch_id == handle.batch_id


async def test_a_hostile_result_does_not_block_the_others(trainer: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.write(b"group", b"rubbish")
    worker.publish(result(handle, 2))
    assert [answer.group for answer in await handle.finished()] == [2]
    worker.write(b"sealed", sealed(handle))
    worker.publish(*(result(handle, group) for group in (0, 3, 1)))
    assert [answer.group async for answer in handle.groups()] == [2, 0, 3, 1]
    assert not (await handle.result(timeout=20)).errors


@pytest.mark.keys_by_hand
async def test_the_first_hostile_result_is_told_once_no_other_will_come(
    trainer: AsyncClient, redis_url: str, server: Any, policy: str
) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    worker, groups = answering(redis_url, policy, handle), handle.groups()
    worker.publish(result(handle, 2))
    worker.write(b"group", b"rubbish")
    worker.write(b"group", b"more rubbish")
    assert (await anext(groups)).group == 2
    with pytest.raises(ResultTimeoutError):
        await handle.result(timeout=0.3)
    server.hset(worker.ledger, "done", 4)
    with pytest.raises(UnreadableResultError) as caught:
        await handle.result(timeout=20)
    assert caught.value.data == b"rubbish"


@pytest.mark.keys_by_hand
async def test_a_count_that_no_worker_writes_is_a_typed_error(trainer: AsyncClient, server: Any, policy: str) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    server.hset(Keys(policy).ledger(handle.batch_id), "done", "9" * 5000)
    with pytest.raises(UnreadableResultError, match="entry ledger: done is"):
        await handle.done()


async def test_attaching_to_what_redis_does_not_know_is_refused(trainer: AsyncClient, server: Any, policy: str) -> None:
    with pytest.raises(UnknownBatchError, match="never submitted, expired"):
        await trainer.attach("nobody")
    server.hset(Keys(policy).ledger("broken"), "batch", b"rubbish")
    with pytest.raises(UnreadableResultError, match="entry ledger"):
        await trainer.attach("broken")


async def test_waiting_ends_when_the_batch_is_gone(trainer: AsyncClient, server: Any, policy: str) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    server.delete(Keys(policy).ledger(handle.batch_id))
    with pytest.raises(UnknownBatchError, match="expired or were deleted"):
        await handle.done()
    with pytest.raises(UnknownBatchError, match="expired or were deleted"):
        await handle.result(timeout=60)


async def test_waiting_ends_when_answered_results_were_deleted(
    trainer: AsyncClient, redis_url: str, server: Any, policy: str
) -> None:
    handle = await trainer.submit([[1, 2]], None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.publish(result(handle, 0))
    server.delete(worker.results)
    with pytest.raises(UnknownBatchError, match="0 of 1 results are left"):
        await handle.result(timeout=60)


@pytest.mark.parametrize(
    ("described", "padded", "words"),
    [
        ({"prompt_width": 400_000_000}, False, "prompt_width is 400000000"),
        ({"prompt_width": 2**23}, False, "prompt_width is 8388608"),
        ({"config": CONFIG.model_copy(update={"max_new_tokens": 2**20, "num_return_sequences": 1})}, True, "max_new"),
    ],
    ids=["8 GiB of prompts", "half a gigabyte", "responses"],
)
async def test_a_description_whose_numbers_no_answer_bears_out_allocates_nothing(
    trainer: AsyncClient, redis_url: str, policy: str, server: Any, described: dict[str, Any], padded: bool, words: str
) -> None:
    handle = await trainer.submit([[5]] * 32, None, CONFIG)
    worker = answering(redis_url, policy, handle)
    worker.publish(*[result_of(group, [5], [[9]], handle.batch_id) for group in range(32)])
    server.hset(worker.ledger, "batch", encode(handle.batch.model_copy(update=described)))
    attached = await trainer.attach(handle.batch_id)
    assert isinstance(attached, BatchHandle)

    with pytest.raises(UnreadableResultError, match=words) as raised:
        await attached.result(timeout=10, pad_to_max_new_tokens=padded)

    assert raised.value.entry == "ledger"
    assert len(await attached.wait(timeout=10)) == 32


@pytest.mark.parametrize(
    "described",
    [{"num_groups": 2**31 - 1, "num_jobs": 2**20}, {"num_groups": 2**31 - 1}, {"num_groups": 1}, {"num_jobs": 9}],
    ids=["many groups and jobs", "many groups", "fewer groups", "more jobs than groups"],
)
async def test_a_description_with_other_groups_than_the_ledger_counts_is_refused(
    trainer: AsyncClient, policy: str, server: Any, described: dict[str, Any]
) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    changed = handle.batch.model_copy(update=described)
    server.hset(Keys(policy).ledger(handle.batch_id), "batch", msgpack.packb(changed.model_dump()))

    with pytest.raises(UnreadableResultError, match="groups"):
        await trainer.attach(handle.batch_id)
