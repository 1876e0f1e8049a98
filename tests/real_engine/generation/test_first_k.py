"""The real engine's first k of n samples are kept, as in an undisturbed run; the others leave the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.jobs.samples import Samples
from rollstream.worker.requests import Completion
from tests.support.engine.engine_requests import ATOL, PROMPT, generate, request, until_under_way
from tests.support.engine.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]

OPTIONS: dict[str, Any] = {
    "max_new_tokens": 1000, "num_return_sequences": 4, "stop_token_ids": (7, 11, 19, 23), "ignore_eos": True,
}  # fmt: skip
"""Each token is one of the four with a chance of about 1 in 128, so lengths differ much."""
CLEARLY = 80
"""By so many tokens the first two must end before the others: a busy machine does not let all four step as one."""


async def running(engine: VllmEngine) -> int:
    """Sequences of this engine, by its own count: in its steps, or waiting for them."""
    use = await engine.memory_use()
    assert use is not None
    return use.running + use.waiting


async def until_empty(engine: VllmEngine) -> None:
    async with asyncio.timeout(10):
        while await running(engine):  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0.005)


async def apart(engine: VllmEngine) -> tuple[dict[str, Any], list[Completion]]:
    """Options under which two of four samples are clearly shorter than the others, and what they give."""
    for seed in range(20):
        options = {**OPTIONS, "seed": seed}
        completions = await generate(engine, **options)
        lengths = sorted(len(one.token_ids) for one in completions)
        if lengths[1] + CLEARLY < lengths[2]:
            return options, completions
    raise AssertionError("no seed has such samples")


async def test_the_first_two_of_four_are_those_of_an_undisturbed_run_and_the_others_leave_the_engine(
    engine: VllmEngine, reference: Callable[[str | None], Reference]
) -> None:
    options, undisturbed = await apart(engine)
    lengths = [len(one.token_ids) for one in undisturbed]
    shortest = sorted(range(4), key=lengths.__getitem__)

    whole = request(engine, **options, first_k=2)
    sampled = await Samples(engine=engine, request=whole, first_k=2).run()
    await until_empty(engine)

    assert sampled.samples == tuple(sorted(shortest[:2]))
    assert sampled.cut_lengths is not None
    assert len(sampled.cut_lengths) == 2
    assert all(cut < lengths[sample] for cut, sample in zip(sampled.cut_lengths, sorted(shortest[2:]), strict=True))
    assert min(sampled.cut_lengths) >= lengths[shortest[1]]
    for sample, one in zip(sampled.samples, sampled.completions, strict=True):
        alone = undisturbed[sample]
        assert (one.token_ids.tolist(), one.finish_reason) == (alone.token_ids.tolist(), "stop")
        assert one.logprobs is not None
        assert alone.logprobs is not None
        np.testing.assert_allclose(one.logprobs, alone.logprobs, atol=ATOL, rtol=0)
        right = reference(None).logprobs(PROMPT, one.token_ids.tolist())
        np.testing.assert_allclose(one.logprobs, right, atol=ATOL, rtol=0)


async def test_a_group_that_is_cut_leaves_the_engine_with_all_its_samples(engine: VllmEngine) -> None:
    options = {**OPTIONS, "stop_token_ids": (), "max_new_tokens": 1000}
    samples = Samples(engine=engine, request=request(engine, **options, first_k=2), first_k=2)
    task = asyncio.create_task(samples.run())
    await until_under_way([engine], 4, 5)
    assert await running(engine) == 4

    task.cancel()
    await asyncio.wait([task])
    await until_empty(engine)

    assert task.cancelled()
    assert len(engine._llm.output_processor.request_states) == 0
