"""A version proves itself before it samples a token; one that cannot leaves everything as if it had never been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from rollstream.worker.engine import Score, SwapMode
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import ProofFailedError, SwapFailedError
from rollstream.worker.jobs.beam_search import beam_search
from rollstream.worker.requests import Adapter, Completion, GenerateRequest, Scores
from tests.real_engine.weight_swap.probes import ROWS, Proof, asked
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
from tests.support.weights.harmful_reload import harm_next

LENGTH = 80
pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


async def proven_swap(engine: VllmEngine, folder: Path, mode: SwapMode, prove: Proof) -> int:
    version = next(versions)
    paused_s = await engine.load_checkpoint(version, folder, mode, None, prove)
    assert engine.policy_version == version
    assert paused_s > prove.seconds
    return version


def seeded(adapters: dict[str, Adapter], tokens: int = LENGTH) -> list[GenerateRequest]:
    """Twenty sequences, four of them with an adapter."""
    return [
        request(PROMPT, num_return_sequences=8, seed=7, max_new_tokens=tokens),
        request(LONG_PROMPT, num_return_sequences=8, seed=8, max_new_tokens=tokens),
        request(PROMPT, adapters["math@1"], num_return_sequences=4, seed=9, max_new_tokens=tokens),
    ]


def tokens(completions: list[Completion]) -> list[list[int]]:
    return [found.token_ids.tolist() for found in completions]


@pytest.mark.parametrize("mode", ["keep", "wait", "abort"])
async def test_what_is_in_flight_goes_on_with_a_version_once_it_is_proven(
    engine: VllmEngine,
    models: list[Path],
    reference: Callable[..., Reference],
    adapters: dict[str, Adapter],
    mode: SwapMode,
) -> None:
    before = await swap(engine, models[0])
    requests = seeded(adapters)
    answers = await in_flight(engine, requests)
    prove = Proof(reference(models[1]))

    after = await proven_swap(engine, models[1], mode, prove)

    assert prove.versions == {after}
    assert engine.experts_reached is None, "it is no mixture"
    spans_of: dict[SwapMode, tuple[int, ...]] = {"keep": (before, after), "wait": (before,), "abort": (after,)}
    for asked_for, completions in zip(requests, await answers, strict=True):
        name = asked_for.adapter and asked_for.adapter.name
        for found in completions:
            assert tuple(version for version, _ in found.version_spans) == spans_of[mode]
            assert sum(length for _, length in found.version_spans) == LENGTH
            row = found.token_ids.tolist()
            by_old = reference(models[0], name).logprobs(asked_for.prompt, row)
            by_new = reference(models[1], name).logprobs(asked_for.prompt, row)
            old = sampled_by_old(found, before, by_old, by_new)
            assert found.logprobs[:old] == pytest.approx(by_old[:old], abs=1e-4)
            assert found.logprobs[old:] == pytest.approx(by_new[old:], abs=1e-4)


@pytest.mark.parametrize(
    ("harm", "mode"),
    [
        ("bit", "keep"),
        ("stale", "abort"),
        ("rotary", "wait"),
        ("nan", "keep"),
        *(
            pytest.param(harm, mode, marks=pytest.mark.large)
            for harm in ("bit", "stale", "rotary", "nan")
            for mode in ("keep", "wait", "abort")
        ),
    ],
)
async def test_a_version_that_fails_its_proof_leaves_no_trace(
    engine: VllmEngine,
    models: list[Path],
    reference: Callable[..., Reference],
    adapters: dict[str, Adapter],
    harm: str,
    mode: SwapMode,
) -> None:
    before = await proven_swap(engine, models[0], "keep", Proof(reference(models[0])))
    requests = seeded(adapters)
    undisturbed = [tokens(await engine.generate(one)) for one in requests]
    answers = await in_flight(engine, requests)
    await harm_next(engine, harm)

    with pytest.raises(ProofFailedError) as raised:
        await engine.load_checkpoint(next(versions), models[1], mode, None, Proof(reference(models[1])))

    assert raised.value.mean > 0.002
    assert engine.policy_version == before
    for completions, expected in zip(await answers, undisturbed, strict=True):
        assert tokens(completions) == expected
        assert [found.version_spans for found in completions] == [((before, LENGTH),)] * len(completions)
    assert await serves(engine, reference(models[0]), LONG_PROMPT)
    adapted = await greedy(engine, PROMPT, adapters["math@2"])
    expected_by = reference(models[0], "math@2").logprobs(PROMPT, adapted.token_ids.tolist())
    assert adapted.logprobs == pytest.approx(expected_by, abs=1e-4)
    await proven_swap(engine, models[1], "keep", Proof(reference(models[1])))
    assert await serves(engine, reference(models[1]))


class Slow:
    """A proof that lasts until it is told what comes of it."""

    def __init__(self) -> None:
        self.scores: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        self.verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __call__(self, score: Score) -> None:
        self.scores.set_result(await score(asked(ROWS[0])))
        await asyncio.wait_for(self.verdict, 60)  # a test that failed meanwhile leaves no engine that holds all


@pytest.mark.parametrize("fails", [False, True])
async def test_what_comes_while_a_version_proves_itself_waits_for_the_verdict(
    engine: VllmEngine,
    models: list[Path],
    reference: Callable[..., Reference],
    adapters: dict[str, Adapter],
    fails: bool,
) -> None:
    before = await swap(engine, models[0])
    running = await in_flight(engine, seeded(adapters, tokens=400))  # none ends before the engine stands still
    prove, after = Slow(), next(versions)
    swapping = asyncio.create_task(engine.load_checkpoint(after, models[1], "keep", None, prove))
    assert (await asyncio.wait_for(prove.scores, 20)).version == after

    late = asyncio.gather(*(engine.generate(one) for one in seeded(adapters)))
    scored = asyncio.create_task(engine.score(asked(ROWS[2])))
    given_up = asyncio.create_task(engine.generate(request(num_return_sequences=2)))
    async with asyncio.timeout(20):
        while unfinished(engine) < 43:  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0)
    await engine.check()
    given_up.cancel()
    await asyncio.wait([given_up])
    await engine.check()  # the abort has reached the engine
    states = engine._llm.output_processor.request_states.values()
    lengths = [state.detokenizer.num_output_tokens() for state in states]
    await engine.check()
    assert [state.detokenizer.num_output_tokens() for state in states] == lengths
    assert len(lengths) == 41

    if fails:
        prove.verdict.set_exception(ProofFailedError(after, "it is wrong"))
        with pytest.raises(ProofFailedError):
            await swapping
    else:
        prove.verdict.set_result(None)
        await swapping
    served, model = (before, models[0]) if fails else (after, models[1])
    assert (await scored).version == served
    assert (await scored).logprobs == pytest.approx(reference(model).logprobs(ROWS[2][:1], ROWS[2][1:]), abs=1e-4)
    for completions in await late:
        assert [found.version_spans for found in completions] == [((served, LENGTH),)] * len(completions)
    for completions in await running:
        assert [found.version_spans[-1][0] for found in completions] == [served] * len(completions)
    assert await serves(engine, reference(model))
    assert unfinished(engine) == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_beams_go_on_after_a_proof(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], fails: bool
) -> None:
    before = await swap(engine, models[0])
    search = asyncio.create_task(
        beam_search(engine, request(num_beams=3, num_return_sequences=3, max_new_tokens=120, early_stopping="never"))
    )
    steps = 0
    async with asyncio.timeout(20):
        while steps < 20:
            steps += unfinished(engine) > 0
            await asyncio.sleep(0.005)
    if fails:
        await harm_next(engine, "bit")
        with pytest.raises(ProofFailedError):
            await engine.load_checkpoint(next(versions), models[1], "keep", None, Proof(reference(models[1])))
        expected = [before]
    else:
        expected = [before, await proven_swap(engine, models[1], "keep", Proof(reference(models[1])))]

    for beam in await search:
        assert [version for version, _ in beam.version_spans] == expected
        assert sum(length for _, length in beam.version_spans) == len(beam.token_ids) == 120


async def test_any_error_of_a_proof_brings_the_old_weights_back_and_ends_its_rows(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    before = await swap(engine, models[0])

    async def raise_one(score: Score) -> None:
        left = asyncio.ensure_future(score(asked(ROWS[1])))
        await score(asked(ROWS[0] * 30))
        await left

    async def raise_another(score: Score) -> None:
        raise ValueError("of the question")

    with pytest.raises(ProofFailedError, match="it cannot be scored"):
        await engine.load_checkpoint(98, models[1], "keep", None, raise_one)
    with pytest.raises(SwapFailedError, match=f"still serving {before}: of the question"):
        await engine.load_checkpoint(99, models[1], "keep", None, raise_another)

    assert unfinished(engine) == 0
    assert engine.policy_version == before
    assert await serves(engine, reference(models[0]))


async def test_a_second_hold_and_a_release_without_one_are_harmless(engine: VllmEngine, models: list[Path]) -> None:
    core = engine._llm.engine_core
    await core.call_utility_async("rollstream_release")
    with pytest.raises(Exception, match="only in a paused engine"):
        await core.call_utility_async("rollstream_hold", "probe/")
    await engine._llm.pause_generation(mode="keep", clear_cache=True)
    for _ in range(2):
        await core.call_utility_async("rollstream_hold", "probe/")
    await engine._llm.resume_generation()
    held = asyncio.create_task(greedy(engine))
    await engine.check()
    assert not held.done()

    for _ in range(2):
        await core.call_utility_async("rollstream_release")

    assert len((await held).token_ids) == 24
