"""New weights in a running vLLM engine (CPU, float32, tied embeddings), against transformers on the same weights."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.jobs.beam_search import beam_search
from rollstream.worker.operations.watchdog import watch
from rollstream.worker.requests import Adapter
from tests.real_engine.weight_swap.steps import (
    LONG_PROMPT,
    PROMPT,
    greedy,
    in_flight,
    request,
    serves,
    swap,
    unfinished,
    versions,
)
from tests.support.engine.transformers_reference import Reference
from tests.support.told_versions import sampled_by_old

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


async def test_greedy_is_that_of_the_weights_after_each_swap(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    for model in (models[0], models[1], models[2], models[0], models[1]):
        version = await swap(engine, model)

        assert await serves(engine, reference(model))
        assert (await greedy(engine)).version_spans == ((version, 24),)


async def test_a_prompt_in_the_prefix_cache_is_computed_again(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    for model in (models[0], models[1]):
        await swap(engine, model)
        for _ in range(2):
            assert await serves(engine, reference(model), LONG_PROMPT)


async def test_weights_that_make_nan_leave_nothing_behind(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], tmp_path: Path
) -> None:
    folder = shutil.copytree(models[0], tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    save_file({name: torch.full_like(tensor, 3e38) for name, tensor in weights.items()}, folder / "model.safetensors")
    await swap(engine, folder)
    prompts = [[*LONG_PROMPT, number] for number in range(10)]
    await asyncio.gather(*(greedy(engine, prompt) for prompt in prompts), return_exceptions=True)

    await swap(engine, models[0])

    for _ in range(10):
        assert await serves(engine, reference(models[0]))


async def test_what_is_kept_goes_on_with_the_new_weights_from_the_token_that_its_spans_say(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], adapters: dict[str, Adapter]
) -> None:
    before = await swap(engine, models[0])
    names = [None, None, "math@1", "math@2"]
    # More than two KV blocks, so that stale ones would be used again.
    prompts = [PROMPT, LONG_PROMPT, LONG_PROMPT, PROMPT]
    requests = [
        request(prompt, adapters[name] if name else None, num_return_sequences=2, seed=7, max_new_tokens=120)
        for prompt, name in zip(prompts, names, strict=True)
    ]
    answers = await in_flight(engine, requests)

    after = await swap(engine, models[1], "keep")

    for prompt, name, completions in zip(prompts, names, await answers, strict=True):
        for found in completions:
            (first, told), (second, left) = found.version_spans
            assert (first, second, told + left) == (before, after, 120)
            tokens = found.token_ids.tolist()
            by_old = reference(models[0], name).logprobs(prompt, tokens)
            by_new = reference(models[1], name).logprobs(prompt, tokens)
            old = sampled_by_old(found, before, by_old, by_new)
            assert 20 <= old <= 100
            assert found.logprobs[:old] == pytest.approx(by_old[:old], abs=1e-4)
            assert found.logprobs[old:] == pytest.approx(by_new[old:], abs=1e-4)


async def test_what_is_waited_for_ends_under_the_old_weights_and_what_comes_meanwhile_starts_under_the_new(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    before = await swap(engine, models[0])
    answers = await in_flight(engine, [request(num_return_sequences=4, seed=7, max_new_tokens=200)])

    swapping = asyncio.create_task(swap(engine, models[1], "wait"))
    async with asyncio.timeout(20):
        while not await engine._llm.is_paused():  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0.005)
    assert not answers.done()
    late = asyncio.create_task(greedy(engine))
    await engine.check()
    after = await swapping

    (waited,) = await answers
    assert [found.version_spans for found in waited] == [((before, 200),)] * 4
    expected = reference(models[0]).logprobs(PROMPT, waited[0].token_ids.tolist())
    assert waited[0].logprobs == pytest.approx(expected, abs=1e-4)
    assert (await late).version_spans == ((after, 24),)


async def test_what_is_aborted_is_started_again_with_its_seed(
    engine: VllmEngine, models: list[Path], adapters: dict[str, Adapter]
) -> None:
    await swap(engine, models[0])
    wanted = request(LONG_PROMPT, adapters["math@1"], num_return_sequences=3, seed=7, max_new_tokens=100)
    answers = await in_flight(engine, [wanted])

    after = await swap(engine, models[1], "abort")

    (found,) = await answers
    fresh = await engine.generate(wanted)
    assert [one.version_spans for one in found] == [((after, 100),)] * 3
    assert [one.token_ids.tolist() for one in found] == [one.token_ids.tolist() for one in fresh]


async def test_beams_say_which_version_gave_each_token(engine: VllmEngine, models: list[Path]) -> None:
    before = await swap(engine, models[0])
    search = asyncio.create_task(
        beam_search(engine, request(num_beams=3, num_return_sequences=3, max_new_tokens=120, early_stopping="never"))
    )
    steps = 0
    async with asyncio.timeout(20):
        while steps < 20:  # answered steps; each asks for more requests
            steps += unfinished(engine) > 0
            await asyncio.sleep(0.005)

    after = await swap(engine, models[1])

    for beam in await search:
        assert [version for version, _ in beam.version_spans] == [before, after]
        assert sum(tokens for _, tokens in beam.version_spans) == len(beam.token_ids) == 120


async def test_swaps_asked_for_at_once_happen_one_after_another(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    answers = await in_flight(engine, [request(num_return_sequences=4, max_new_tokens=300)])

    order = await asyncio.gather(*(swap(engine, models[i % 4]) for i in range(7)))

    assert order == sorted(order)
    assert engine.policy_version == order[-1]
    assert await serves(engine, reference(models[2]))
    for found in (await answers)[0]:
        assert sum(tokens for _, tokens in found.version_spans) == 300


async def test_a_swap_whose_caller_gave_up_is_carried_through(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    await swap(engine, models[0])
    version = next(versions)
    caller = asyncio.create_task(engine.load_checkpoint(version, models[1], "keep"))
    async with asyncio.timeout(20):
        while not await engine._llm.is_paused():  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0)

    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (await greedy(engine)).version_spans == ((version, 24),)
    assert await serves(engine, reference(models[1]))


async def test_a_load_may_take_longer_than_a_step_and_the_watchdog_waits_for_it(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._calls, "_step_limit_s", 2.0)
    (core,) = (psutil.Process(pid) for pid in engine._processes.pids)
    swapping = asyncio.create_task(swap(engine, models[2]))
    async with asyncio.timeout(20):
        while engine._calls._no_load.is_set():  # noqa: ASYNC110 - the load itself tells nobody
            await asyncio.sleep(0)

    core.send_signal(signal.SIGSTOP)
    watching = asyncio.create_task(watch(engine, 2.0, lambda: None))
    try:
        done, _ = await asyncio.wait([swapping, watching], timeout=2.5)
    finally:
        core.send_signal(signal.SIGCONT)

    assert not done
    await swapping
    assert await serves(engine, reference(models[2]))
    await engine.check()
    assert not watching.done()
    watching.cancel()
