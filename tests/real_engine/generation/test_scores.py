"""Scores of the real engine are transformers' log-probs of the same rows, whatever runs beside them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from rollstream.schemas import ErrorCode
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import DataError
from rollstream.worker.requests import Adapter, ScoreRequest
from tests.support.engine.engine_requests import ATOL, generate
from tests.support.engine.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]

_numbers = itertools.count()


def row(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 512, length)]


def scored(token_ids: list[int], first: int = 1, k: int = 0, adapter: Adapter | None = None) -> ScoreRequest:
    request_id = f"score/{next(_numbers)}"
    return ScoreRequest(request_id=request_id, token_ids=token_ids, first=first, top_logprobs=k, adapter=adapter)


@pytest.mark.parametrize("name", [None, "math@1"])
@pytest.mark.parametrize(("length", "first", "k"), [(2, 1, 0), (200, 1, 5), (200, 150, 64), (1024, 1000, 1)])
async def test_scores_are_transformers_log_probs(
    engine: VllmEngine,
    adapters: dict[str | None, Adapter | None],
    reference: Callable[[str | None], Reference],
    name: str | None,
    length: int,
    first: int,
    k: int,
) -> None:
    ids = row(length)

    found = await engine.score(scored(ids, first, k, adapters[name]))

    logprobs = reference(name).logits(ids[:first], ids[first:]).log_softmax(-1)
    expected = logprobs.gather(1, torch.tensor(ids[first:])[:, None])[:, 0].numpy()
    assert found.logprobs == pytest.approx(expected, abs=ATOL)
    assert found.top_token_ids.shape == found.top_logprobs.shape == (length - first, k)
    by_rank = logprobs.sort(-1, descending=True).values[:, :k].numpy()
    assert found.top_logprobs == pytest.approx(by_rank, abs=ATOL)
    of_those = np.take_along_axis(logprobs.numpy(), found.top_token_ids.astype(np.int64), 1)
    assert found.top_logprobs == pytest.approx(of_those, abs=ATOL)


async def test_no_object_is_made_for_a_token(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    read_one_by_one: list[int] = []
    append = "vllm.logprobs.FlatLogprobs.append_fast"
    monkeypatch.setattr(append, lambda _, ids, *_others: read_one_by_one.append(len(ids)))

    found = await engine.score(scored(row(200), k=64))

    assert (found.top_logprobs.shape, read_one_by_one) == ((199, 64), [])


async def test_rows_are_scored_beside_others_and_beside_what_is_sampled(
    engine: VllmEngine,
    adapters: dict[str | None, Adapter | None],
    reference: Callable[[str | None], Reference],
) -> None:
    rows = [(row(40 + number, number), (None, "math@1", "code@1")[number % 3]) for number in range(24)]
    sampling = asyncio.create_task(generate(engine, num_return_sequences=8, ignore_eos=True, max_new_tokens=200))

    found = await asyncio.gather(*(engine.score(scored(ids, adapter=adapters[name])) for ids, name in rows))

    await sampling
    for (ids, name), scores in zip(rows, found, strict=True):
        assert scores.logprobs == pytest.approx(reference(name).logprobs(ids[:1], ids[1:]), abs=ATOL)


async def test_what_was_sampled_and_is_in_the_prefix_cache_is_scored_as_a_whole(engine: VllmEngine) -> None:
    prompt = row(100, seed=5)
    [completion] = await generate(engine, prompt, logprobs="processed", ignore_eos=True, max_new_tokens=40)

    found = await engine.score(scored([*prompt, *completion.token_ids.tolist()], first=len(prompt)))

    assert found.logprobs == pytest.approx(completion.logprobs, abs=ATOL)


async def test_a_row_that_is_too_long_is_refused_and_the_engine_goes_on(engine: VllmEngine) -> None:
    with pytest.raises(DataError) as refused:
        await engine.score(scored(row(1025)))

    assert refused.value.code is ErrorCode.ENGINE_REFUSED
    assert len((await engine.score(scored(row(4)))).logprobs) == 3
