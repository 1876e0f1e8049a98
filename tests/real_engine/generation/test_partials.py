"""What a real engine says of completions while they run is the beginning of what it gives in the end."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.requests import Adapter, Completion, GenerateRequest, Partial
from tests.support.engine.engine_requests import ATOL, PROMPT, WITH_LORA, request, until_under_way
from tests.support.worker_process import until_true

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]

LENGTH = 200
SAMPLED: dict[str, Any] = {"max_new_tokens": LENGTH, "ignore_eos": True, "seed": 5}
CONFIGS: dict[str, dict[str, Any]] = {
    "without log-probs": {},
    "three samples": {"num_return_sequences": 3, "logprobs": "processed"},
    "the likeliest": {"logprobs": "processed", "top_logprobs": 4},
    "labels": {"logprobs": "processed", "label_token_ids": (7, 300, 12)},
    "support": {"logprobs": "processed", "sampling_support": True, "top_k": 5},
    "greedy": {"temperature": 0.0, "logprobs": "processed"},
}


class Told:
    """What EngineCore answers when it hands over: how many tokens it has sampled, by vLLM's own ids of requests."""

    def __init__(self, engine: VllmEngine, patch: pytest.MonkeyPatch) -> None:
        self.sampled: dict[str, int] = {}
        self._engine = engine
        self._ask = engine._llm.engine_core.call_utility_async
        patch.setattr(engine._llm.engine_core, "call_utility_async", self.utility)

    async def utility(self, name: str, *args: Any) -> Any:
        states = dict(self._engine._llm.output_processor.request_states)
        told = await self._ask(name, *args)
        if name == "rollstream_hand_over":
            by_id = ((states[own], count) for own, count in told.items())
            self.sampled = {f"{state.external_req_id}/{state.request_index}": count for state, count in by_id}
        return told


def lengths(engine: VllmEngine, asked: list[GenerateRequest]) -> dict[str, int]:
    return {
        f"{one.request_id}/{partial.sample}": len(partial.completion.token_ids)
        for one in asked
        for partial in engine.partials(one.request_id)
    }


def begins(whole: Completion, so_far: Completion) -> bool:
    """Whether `so_far` has what `whole` has of its first tokens, in every column."""
    length = len(so_far.token_ids)
    assert sum(tokens for _, tokens in so_far.version_spans) == length
    for name in ("token_ids", "logprobs", "top_token_ids", "top_logprobs", "label_logprobs", "support_lengths"):
        first, all_of_it = getattr(so_far, name), getattr(whole, name)
        assert (first is None) == (all_of_it is None), name
        if first is not None and not np.array_equal(first, all_of_it[:length]):
            return False
    if so_far.support_ids is None or whole.support_ids is None:
        return True
    return np.array_equal(so_far.support_ids, whole.support_ids[: len(so_far.support_ids)])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
async def test_it_is_a_beginning_in_every_column(engine: VllmEngine, config: dict[str, Any]) -> None:
    asked = request(engine, **{**SAMPLED, **config})
    running = asyncio.create_task(engine.generate(asked))
    await until_under_way([engine], asked.config.num_return_sequences, 40)

    await engine.release()
    found = engine.partials(asked.request_id)
    completions = await running

    assert [partial.sample for partial in found] == list(range(len(completions)))
    for partial in found:
        assert not partial.ended
        assert 40 <= len(partial.completion.token_ids) < LENGTH
        assert partial.completion.spans_exact
        assert begins(completions[partial.sample], partial.completion)
    assert engine.partials(asked.request_id) == []


@WITH_LORA
async def test_with_an_adapter_it_is_the_adapters(
    engine: VllmEngine, adapters: dict[str | None, Adapter | None]
) -> None:
    asked = [request(engine, adapter=adapters[name], temperature=0, **SAMPLED) for name in (None, "math@1")]
    running = [asyncio.create_task(engine.generate(one)) for one in asked]
    await until_under_way([engine], 2, 40)

    found = [engine.partials(one.request_id)[0].completion for one in asked]

    for so_far, ((whole,)) in zip(found, await asyncio.gather(*running), strict=True):
        assert begins(whole, so_far)
    assert found[0].token_ids.tolist()[:30] != found[1].token_ids.tolist()[:30]


async def test_samples_that_have_ended_are_told_as_they_will_be_answered(engine: VllmEngine) -> None:
    asked = request(
        engine, num_return_sequences=6, max_new_tokens=900, seed=9, logprobs="processed", stop_token_ids=(3, 4, 5)
    )
    running = asyncio.create_task(engine.generate(asked))
    some: list[Partial] = []

    def some_have_ended() -> bool:
        some[:] = engine.partials(asked.request_id)
        return any(one.ended for one in some) and not all(one.ended for one in some)

    await until_true(some_have_ended)
    completions = await running

    for partial in some:
        whole, so_far = completions[partial.sample], partial.completion
        assert begins(whole, so_far)
        if partial.ended:
            assert (so_far.finish_reason, so_far.stop_reason) == (whole.finish_reason, whole.stop_reason)
            assert len(so_far.token_ids) == len(whole.token_ids)


async def test_a_release_hands_over_every_token_that_was_sampled_before_it(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(engine, monkeypatch)
    asked = [request(engine, [9, number], logprobs="processed", **SAMPLED) for number in range(8)]
    running = [asyncio.create_task(engine.generate(one)) for one in asked]
    await until_true(lambda: len(engine._llm.output_processor.request_states) == 8)

    while not any(told.sampled.values()):
        assert lengths(engine, asked) == {}
        await engine.release()
        handed_over = lengths(engine, asked)
        assert {name for name, count in told.sampled.items() if handed_over.get(name, 0) < count} == set()

    assert 0 < max(told.sampled.values()) < 32, "a piece would have been due"
    await asyncio.gather(*running)


async def test_an_engine_that_stands_still_has_handed_over_all_that_it_sampled(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(engine, monkeypatch)
    asked = [request(engine, [9, number], logprobs="processed", **SAMPLED) for number in range(8)]
    running = [asyncio.create_task(engine.generate(one)) for one in asked]
    await until_under_way([engine], 8, 20)

    await engine._llm.pause_generation(mode="keep", clear_cache=False)
    try:
        before = lengths(engine, asked)
        await engine.release()
        after = lengths(engine, asked)
    finally:
        await engine._llm.resume_generation()

    assert before == after == told.sampled
    assert {len(found.token_ids) for (found,) in await asyncio.gather(*running)} == {LENGTH}


async def test_a_continuation_is_what_an_undisturbed_greedy_completion_has_next(engine: VllmEngine) -> None:
    asked = request(engine, temperature=0, logprobs="processed", **SAMPLED)
    running = asyncio.create_task(engine.generate(asked))
    await until_under_way([engine], 1, 40)
    await engine.release()
    (partial,) = engine.partials(asked.request_id)
    so_far = partial.completion.token_ids.tolist()

    (whole,) = await running
    rest_of_it = {**SAMPLED, "max_new_tokens": LENGTH - len(so_far)}
    on = request(engine, [*PROMPT, *so_far], temperature=0, logprobs="processed", **rest_of_it)
    (found,) = await engine.generate(on)

    assert so_far + found.token_ids.tolist() == whole.token_ids.tolist()
    assert partial.completion.logprobs is not None
    assert found.logprobs is not None
    logprobs = [*partial.completion.logprobs.tolist(), *found.logprobs.tolist()]
    assert logprobs == pytest.approx(whole.logprobs, abs=ATOL)


async def test_of_what_a_stop_string_may_end_only_what_has_ended_is_told(engine: VllmEngine) -> None:
    asked = request(engine, num_return_sequences=2, stop_strings=("never to be found",), **SAMPLED)
    running = asyncio.create_task(engine.generate(asked))
    await until_under_way([engine], 2, 40)

    assert engine.partials(asked.request_id) == []

    assert {len(one.token_ids) for one in await running} == {LENGTH}


async def test_unknown_ids_and_an_idle_engine_have_nothing(engine: VllmEngine) -> None:
    await engine.release()

    assert engine.partials("unknown") == []


async def test_memory_use_counts_what_runs_and_is_nothing_when_it_is_idle(engine: VllmEngine) -> None:
    asked = [request(engine, num_return_sequences=40, **SAMPLED) for _ in range(2)]
    running = [asyncio.create_task(engine.generate(one)) for one in asked]
    async with asyncio.timeout(30):
        while (busy := await engine.memory_use()) is None or busy.running + busy.waiting < 80 or busy.running < 64:
            pass  # vLLM takes them in one by one
    await asyncio.gather(*running)
    await until_true(lambda: not engine._llm.output_processor.request_states)
    idle = await engine.memory_use()

    assert idle is not None
    assert (busy.running, busy.waiting) == (64, 16)
    assert 0 < busy.used < 1
    assert (idle.running, idle.waiting, idle.used, idle.preemptions) == (0, 0, 0.0, 0)
