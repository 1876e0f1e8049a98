"""A trainer reads which experts tokens went to, or is told why it cannot; through a worker with the stub engine."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from redis.asyncio import Redis

from rollstream import (
    ArgumentError,
    AsyncClient,
    BatchHandle,
    Client,
    GenerationConfig,
    GroupError,
    GroupResult,
    RoutingError,
)
from rollstream.schemas import Keys
from rollstream.schemas.times import RESULT_TTL_S
from rollstream.worker.engines.stub_routing import SHAPE, routing
from rollstream.worker.requests import Completion, GenerateRequest
from tests.support.partials.partial_steps import serving
from tests.support.worker_process import until_true

CONFIG = GenerationConfig(max_new_tokens=6, num_return_sequences=3, seed=1, ignore_eos=True, routed_experts=True)
OFFERS: dict[str, Any] = {"routed_experts": True, "keep_partials": 0, "stub_vocab_size": 100}


def of_stub(group: GroupResult) -> list[NDArray[Any]]:
    """What the stub says of each completion, by what the answer says of its tokens and versions."""
    found = list[NDArray[Any]]()
    for one in group:
        request = GenerateRequest(
            request_id="", prompt=group.prompt_ids, config=CONFIG, stop_token_ids=(), seed=None, adapter=None
        )
        sampled = Completion(
            token_ids=np.array(one.token_ids, np.int32), logprobs=None, finish_reason="length", stop_reason=None,
            version_spans=one.version_spans,
        )  # fmt: skip
        found.append(routing(request, sampled))
    return found


def same(found: list[NDArray[Any]], expected: list[NDArray[Any]]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


async def answers_of(handle: BatchHandle) -> list[GroupResult]:
    answers = await handle.wait(timeout=20)
    assert all(isinstance(one, GroupResult) for one in answers.values()), answers
    return [one for one in answers.values() if isinstance(one, GroupResult)]


async def test_each_completion_has_a_row_for_each_token_but_the_last(
    redis: Redis, redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, **OFFERS):
        handle = await trainer.submit([[5, 6, 7], [8]], None, CONFIG)
        groups = await answers_of(handle)
        found = [await handle.routed_experts(group) for group in groups]
        attached: Any = await trainer.attach(handle.batch_id)
        by_number = await attached.routed_experts(1)
        ttl = await redis.ttl(Keys(policy).routing(handle.batch_id))

    assert [[one.shape for one in each] for each in found] == [
        [(rows, SHAPE.layers, SHAPE.k)] * 3 for rows in [len(group.prompt_ids) + 5 for group in groups]
    ]
    assert all(same(each, of_stub(group)) for each, group in zip(found, groups, strict=True))
    assert same(by_number, found[[group.group for group in groups].index(1)])
    assert (found[0][0].dtype.name, found[0][0].flags.writeable) == ("uint8", True)
    assert groups[0].routing is not None
    assert groups[0].routing.dense == (0,)
    assert RESULT_TTL_S - 30 < ttl <= RESULT_TTL_S, "as long as the results"


async def test_rows_are_of_the_version_that_sampled_the_token_after_them(
    redis_url: str, policy: str, trainer: AsyncClient, tmp_path: Any
) -> None:
    async with serving(redis_url, policy, **OFFERS, stub_tokens_per_s=100, swap="keep") as worker:
        handle = await trainer.submit([[5, 6]], None, CONFIG.model_copy(update={"max_new_tokens": 100}))
        await until_true(lambda: worker._admission.load.groups == 1)
        engine: Any = worker._engine
        await until_true(lambda: all(engine.partials(request) for request in engine._samplings))
        worker._proofs.allow(1)
        await engine._serve(1, "keep", None)
        (group,) = await answers_of(handle)
        found = await handle.routed_experts(group)

    assert [len(spans) for spans in group.version_spans] == [2, 2, 2]
    assert same(found, of_stub(group))


@pytest.mark.parametrize("options", [{"samples_per_job": 1}, {"samples_per_job": 2}])
async def test_a_split_group_has_that_of_all_its_samples(
    redis_url: str, policy: str, trainer: AsyncClient, options: dict[str, Any]
) -> None:
    async with serving(redis_url, policy, **OFFERS):
        handle = await trainer.submit([[5, 6, 7], [8]], None, CONFIG, **options)
        groups = await answers_of(handle)

        assert all([same(await handle.routed_experts(group), of_stub(group)) for group in groups])


async def test_with_first_k_it_is_that_of_the_samples_that_are_there(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, **OFFERS):
        handle = await trainer.submit([[5, 6, 7]], None, CONFIG.model_copy(update={"first_k": 2}))
        (group,) = await answers_of(handle)
        found = await handle.routed_experts(group)

    assert len(found) == 2
    assert same(found, of_stub(group))


async def test_a_job_that_is_drained_begins_again_and_has_the_routing_of_its_own_tokens(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    """Partials would lack the rows of what another worker sampled."""
    slow = {**OFFERS, "stub_tokens_per_s": 20, "keep_partials": 1000}
    async with serving(redis_url, policy, **slow, consumer="first") as first:
        handle = await trainer.submit([[5, 6]], None, CONFIG.model_copy(update={"max_new_tokens": 60}))
        engine: Any = first._engine
        await until_true(lambda: all(len(engine.partials(name)) == 3 for name in engine._samplings or [""]))
        first._begin_drain()
        await until_true(lambda: not first._leases._held)
    async with serving(redis_url, policy, **OFFERS, consumer="second"):
        (group,) = await answers_of(handle)
        found = await handle.routed_experts(group)

    assert group.resumed_at is None
    assert same(found, of_stub(group))


async def test_a_cancelled_batch_keeps_the_routing_of_what_was_answered(
    redis: Redis, redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    key = Keys(policy).routing("b")
    async with serving(redis_url, policy, **OFFERS, max_num_seqs=3, stub_tokens_per_s=20):
        handle = await trainer.submit([[5], [6]], None, CONFIG, batch_id="b", prompts_per_job=1)
        (first, *_) = await handle.groups_from(0, timeout=20)
        before = await redis.ttl(key)
        cancelled = await handle.cancel()
        after = await redis.ttl(key)

    assert isinstance(first, GroupResult)
    assert cancelled == 1
    assert same(await handle.routed_experts(first), of_stub(first))
    assert before == -1, "as long as the results of a batch that is not sealed"
    assert RESULT_TTL_S - 30 < after <= RESULT_TTL_S, "as long as the results"


async def test_a_worker_without_the_flag_refuses_by_name(redis_url: str, policy: str, trainer: AsyncClient) -> None:
    async with serving(redis_url, policy, **{**OFFERS, "routed_experts": False}):
        handle = await trainer.submit([[5]], None, CONFIG)
        answer = (await handle.wait(timeout=20))[0]

    assert isinstance(answer, GroupError)
    assert (answer.code, answer.field) == ("unsupported", "routed_experts")
    assert answer.message.endswith("start the worker with --routed-experts")
    for group in (0, answer):
        with pytest.raises(RoutingError, match="the group failed: unsupported"):
            await handle.routed_experts(group)


async def test_what_cannot_be_read_is_said(redis: Redis, redis_url: str, policy: str, trainer: AsyncClient) -> None:
    key = Keys(policy).routing("b")
    async with serving(redis_url, policy, **OFFERS):
        handle = await trainer.submit([[5]], None, CONFIG, batch_id="b")
        plain = await trainer.submit([[5]], None, CONFIG.model_copy(update={"routed_experts": False}))
        (group,), (without,) = await answers_of(handle), await answers_of(plain)

    with pytest.raises(RoutingError, match="it was not asked for"):
        await plain.routed_experts(without)
    with pytest.raises(ArgumentError, match="an answer of this batch"):
        await plain.routed_experts(group)
    with pytest.raises(ArgumentError, match="the number of a group that finished"):
        await handle.routed_experts(7)
    (field, *_) = sorted(await redis.hkeys(key))
    there: Any = await redis.hget(key, field)
    for data, said in ((there[:-1], "has 47 bytes, not 48"), (bytes(len(there)), "is not what the answer names")):
        await redis.hset(key, field, data)
        with pytest.raises(RoutingError, match=said):
            await handle.routed_experts(group)
    await redis.delete(key)
    with pytest.raises(RoutingError, match="not in Redis any more") as gone:
        await handle.routed_experts(group)
    assert (gone.value.batch_id, gone.value.group) == ("b", 0)


async def test_a_trainer_without_an_event_loop_reads_the_same(redis_url: str, policy: str) -> None:
    def trained() -> tuple[GroupResult, list[NDArray[Any]]]:
        with Client(redis_url, policy=policy) as client:
            handle = client.submit([[5, 6]], None, CONFIG)
            (group,) = handle.groups(timeout=20)
            assert isinstance(group, GroupResult)
            return group, handle.routed_experts(group)

    async with serving(redis_url, policy, **OFFERS):
        group, found = await asyncio.to_thread(trained)

    assert same(found, of_stub(group))
