"""Each row of a batch has its own routing, wherever the row went; through a worker with the stub engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from redis.asyncio import Redis

from rollstream import ArgumentError, AsyncClient, Client, GenerationConfig, RolloutBatch, RoutingError, RowsError
from rollstream.producer.rollouts.assemble import assemble
from rollstream.schemas import Keys, RoutedExperts
from rollstream.worker.engines.stub_routing import routing
from rollstream.worker.requests import Completion, GenerateRequest
from tests.producer.rollouts.batches import assert_same
from tests.support.answers import batch_of, error_of, result_of
from tests.support.partials.partial_steps import serving

CONFIG = GenerationConfig(max_new_tokens=40, num_return_sequences=4, seed=1, routed_experts=True)
FIRST_K = CONFIG.model_copy(update={"first_k": 2, "seed": 3})
PROMPTS = [[10, 11, 12], [13], [14, 15]]
OFFERS: dict[str, Any] = {"routed_experts": True, "keep_partials": 0, "stub_vocab_size": 100}


def of_stub(rollouts: RolloutBatch, row: int) -> Any:
    """What the stub says of a row's own ids and versions."""
    request = GenerateRequest(
        request_id="", prompt=rollouts.prompts[row], config=CONFIG, stop_token_ids=(), seed=None, adapter=None
    )
    sampled = Completion(
        token_ids=np.array(rollouts.responses[row], np.int32), logprobs=None, finish_reason="length", stop_reason=None,
        version_spans=rollouts.version_spans[row],
    )  # fmt: skip
    return routing(request, sampled)


def assert_its_own(rollouts: RolloutBatch, found: list[Any]) -> None:
    assert len(found) == rollouts.num_rows
    for row, given in enumerate(found):
        expected = of_stub(rollouts, row)
        assert given.shape == expected.shape, row
        assert np.array_equal(given, expected), row


@pytest.fixture
async def served(redis_url: str, policy: str) -> AsyncIterator[None]:
    async with serving(redis_url, policy, **OFFERS):
        yield


@pytest.mark.usefixtures("served")
async def test_rows_have_their_own_routing_after_they_were_picked_joined_saved_and_loaded(
    trainer: AsyncClient, tmp_path: Path
) -> None:
    all_samples = await trainer.generate(PROMPTS, None, CONFIG, timeout=20, samples_per_job=2)
    some_samples = await trainer.generate(PROMPTS, None, FIRST_K, timeout=20)
    every_second = all_samples.select([False, True] * 6)
    joined = RolloutBatch.cat([some_samples[1:], all_samples[-1], every_second])
    joined.save(tmp_path / "rows")
    loaded = RolloutBatch.load(tmp_path / "rows")

    assert len({tuple(ids) for ids in all_samples.responses}) == 12, "each row is told apart"
    assert_same(loaded, joined)
    for rollouts in (all_samples, some_samples, all_samples[1], every_second, joined, loaded):
        assert_its_own(rollouts, await trainer.routed_experts(rollouts))


@pytest.mark.usefixtures("served")
async def test_rows_whose_routing_is_not_theirs_any_more_are_refused(
    redis: Redis, policy: str, trainer: AsyncClient
) -> None:
    rollouts = await trainer.generate([[5, 6]], None, CONFIG, timeout=20, batch_id="b")
    shorter = replace(rollouts, response_lengths=rollouts.response_lengths - torch.tensor([0, 0, 1, 0]))

    with pytest.raises(RowsError, match=r"row 2: its routing has \d+ rows, and a prompt of 2 .* lengths were changed"):
        await trainer.routed_experts(shorter)
    with pytest.raises(ArgumentError, match=r"rollouts 0: give a RolloutBatch; handle\.routed_experts takes"):
        await trainer.routed_experts(0)  # type: ignore[arg-type] # on purpose
    await redis.delete(Keys(policy).routing("b"))
    with pytest.raises(RoutingError, match="group 0 of batch 'b': it is not in Redis any more"):
        await trainer.routed_experts(rollouts)


@pytest.mark.usefixtures("served")
async def test_the_number_of_a_group_is_a_whole_number_of_python_numpy_or_torch(trainer: AsyncClient) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG)
    rollouts = await handle.result(timeout=20)

    for number in (rollouts.group_index[5], np.int64(1)):
        assert_its_own(rollouts[1], await handle.routed_experts(number))  # type: ignore[arg-type] # on purpose
    for wrong in (True, 1.0, [1], "1", rollouts):
        with pytest.raises(ArgumentError, match="give an answer of this batch, or the number of a group that finished"):
            await handle.routed_experts(wrong)  # type: ignore[arg-type] # on purpose


@pytest.mark.usefixtures("served")
async def test_a_trainer_without_an_event_loop_has_the_same(redis_url: str, policy: str) -> None:
    def trained() -> tuple[RolloutBatch, list[Any]]:
        with Client(redis_url, policy=policy) as client:
            rollouts = client.generate(PROMPTS, None, CONFIG, timeout=20)
            return rollouts, client.routed_experts(rollouts)

    assert_its_own(*await asyncio.to_thread(trained))


def told(rows: tuple[int, ...]) -> RoutedExperts:
    return RoutedExperts(dtype="uint8", layers=1, k=1, experts=2, rows=rows, sha256=("0" * 64,) * len(rows))


def with_a_failed_prompt() -> RolloutBatch:
    config = GenerationConfig(max_new_tokens=3)
    answers: dict[int, Any] = {0: error_of(0, [1]), 1: result_of(1, [2], [[7, 8]], routing=told((2,)))}
    return assemble(batch_of([[1], [2]], config), answers)


async def test_rows_of_failed_groups_have_none(trainer: AsyncClient) -> None:
    failed = with_a_failed_prompt()[0]

    assert await trainer.routed_experts(failed) == [None]


async def test_rows_that_were_submitted_without_it_are_named(trainer: AsyncClient) -> None:
    plain = assemble(batch_of([[1]], GenerationConfig(max_new_tokens=2)), {0: result_of(0, [1], [[7]])})
    joined = RolloutBatch.cat([plain, with_a_failed_prompt()])

    assert [one is None for one in joined.routing] == [True, True, False]
    for rollouts in (plain, joined):
        with pytest.raises(RowsError, match="row 0: has no routing: submit with routed_experts=True"):
            await trainer.routed_experts(rollouts)
