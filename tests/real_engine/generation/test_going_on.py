"""A real engine goes on with what another request began: greedily as if there had been no break."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.jobs.make_answers import Sampled
from rollstream.worker.jobs.samples import Samples, SoFar
from rollstream.worker.requests import Adapter, Completion
from tests.support.engine.engine_requests import ATOL, WITH_LORA, generate, request
from tests.support.worker_process import until_true

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]

LENGTH = 200
GREEDY: dict[str, Any] = {"max_new_tokens": LENGTH, "ignore_eos": True, "temperature": 0.0, "logprobs": "processed"}
CONFIGS: dict[str, dict[str, Any]] = {
    "log-probs": {},
    "the likeliest": {"top_logprobs": 4},
    "labels": {"label_token_ids": (7, 300, 12)},
    "repetition penalty": {"repetition_penalty": 1.3},
    "bias and allowed ids": {"logit_bias": {9: 2.0}, "allowed_token_ids": tuple(range(3, 200))},
    "without log-probs": {"logprobs": None},
}


async def broken(engine: VllmEngine, whole: Any, tokens: int) -> tuple[Sampled, list[SoFar]]:
    """The samples of `whole`, aborted once each has so many tokens, and gone on from there by another request."""
    first = Samples(engine=engine, request=whole)
    running = asyncio.create_task(first.run())
    await until_true(lambda: [len(one.completion.token_ids) >= tokens for one in first.so_far()].count(True) >= 1)
    await engine.release()
    had = first.so_far()
    running.cancel()
    await asyncio.wait([running])
    rest = Samples(engine=engine, request=whole, kept={one.sample: one for one in had})
    return await rest.run(), had


def check_same(one: Completion, other: Completion) -> None:
    assert one.token_ids.tolist() == other.token_ids.tolist()
    for name in ("logprobs", "top_logprobs", "label_logprobs"):
        mine, whole = getattr(one, name), getattr(other, name)
        assert (mine is None) == (whole is None), name
        if mine is not None:
            np.testing.assert_allclose(mine, whole, atol=ATOL, rtol=0, err_msg=name)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
async def test_a_greedy_completion_is_as_if_nobody_had_broken_it_off(
    engine: VllmEngine, config: dict[str, Any]
) -> None:
    whole = request(engine, **{**GREEDY, **config})
    (undisturbed,) = await engine.generate(request(engine, **{**GREEDY, **config}))

    sampled, (had,) = await broken(engine, whole, 40)

    (one,) = sampled.completions
    check_same(one, undisturbed)
    assert one.spans_exact
    assert one.version_spans == ((engine.policy_version, LENGTH),)
    assert sampled.resumed_at == (len(had.completion.token_ids),)
    assert 40 <= len(had.completion.token_ids) < LENGTH


@WITH_LORA
async def test_with_an_adapter_it_is_the_adapter_that_goes_on(
    engine: VllmEngine, adapters: dict[str | None, Adapter | None]
) -> None:
    math = adapters["math@1"]
    (undisturbed,) = await generate(engine, adapter=math, **GREEDY)

    sampled, _ = await broken(engine, request(engine, adapter=math, **GREEDY), 40)

    check_same(sampled.completions[0], undisturbed)
    assert undisturbed.token_ids.tolist() != (await generate(engine, **GREEDY))[0].token_ids.tolist()


async def test_sampled_ones_keep_what_they_had_and_go_on_the_same_each_time(engine: VllmEngine) -> None:
    options = {**GREEDY, "temperature": 1.0, "seed": 7, "num_return_sequences": 3}
    sampled, had = await broken(engine, request(engine, **options), 40)

    again = Samples(engine=engine, request=request(engine, **options), kept={one.sample: one for one in had})

    repeated = await again.run()
    for one, other, begun in zip(sampled.completions, repeated.completions, had, strict=True):
        length = len(begun.completion.token_ids)
        assert one.token_ids[:length].tolist() == begun.completion.token_ids.tolist()
        assert one.token_ids.tolist() == other.token_ids.tolist(), "the rest follows from seed and place"
        assert sum(tokens for _, tokens in one.version_spans) == LENGTH
        assert one.spans_exact


async def test_before_the_fewest_tokens_nothing_ends_a_completion_that_goes_on(engine: VllmEngine) -> None:
    stops = tuple(range(3, 60))
    options = {**GREEDY, "stop_token_ids": stops, "min_new_tokens": 120, "temperature": 1.0, "seed": 7}

    sampled, _ = await broken(engine, request(engine, **options), 40)

    (one,) = sampled.completions
    assert len(one.token_ids) > 120
    assert not np.isin(one.token_ids[:120], stops).any()
    assert one.finish_reason == "stop"
