"""Parts of completions across a swap: who sampled them, and what an aborting one leaves to a caller that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.engines.vllm.inside.held_tokens import PIECE
from tests.real_engine.weight_swap.steps import PROMPT, greedy, in_flight, request, swap
from tests.support.engine.engine_requests import until_under_way
from tests.support.engine.transformers_reference import Reference
from tests.support.told_versions import needs_told_versions
from tests.support.worker_process import until_true

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]

LENGTH = 400


async def test_an_aborting_swap_leaves_all_that_was_sampled_under_the_old_version(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    old = await swap(engine, models[0])
    asked = replace(request(temperature=0, max_new_tokens=LENGTH, logprobs="processed"), goes_on=True)
    answers = await in_flight(engine, [asked])
    (before,) = engine.partials(asked.request_id)

    new = await swap(engine, models[1], "abort")

    ((left,),) = await answers
    length = len(left.token_ids)
    assert (left.finish_reason, left.stop_reason) == ("abort", None)
    assert len(before.completion.token_ids) <= length < LENGTH
    assert (left.version_spans, left.spans_exact) == (((old, length),), True)
    so_far = left.token_ids.tolist()
    expected, _ = reference(models[0]).generate(PROMPT, length, eos_token_id=None)
    assert [so_far] == expected
    assert left.logprobs == pytest.approx(reference(models[0]).logprobs(PROMPT, so_far), abs=1e-4)
    after = await greedy(engine, [*PROMPT, *so_far])
    expected, _ = reference(models[1]).generate([*PROMPT, *so_far], 24, eos_token_id=None)
    assert [after.token_ids.tolist()] == expected
    assert after.version_spans == ((new, 24),)


async def test_what_was_held_back_when_the_swap_aborted_it_is_there(engine: VllmEngine, models: list[Path]) -> None:
    await swap(engine, models[0])
    asked = [replace(request(max_new_tokens=LENGTH), goes_on=True) for _ in range(3)]
    answers = []
    for number, one in enumerate(asked):  # not in step with each other
        answers.append(asyncio.create_task(engine.generate(one)))
        await until_under_way([engine], number + 1, 1)

    await swap(engine, models[1], "abort")

    lengths = [len(left.token_ids) for (left,) in await asyncio.gather(*answers)]
    assert any(length % PIECE for length in lengths), lengths


async def test_of_a_group_that_goes_on_those_that_had_ended_are_answered_as_they_ended(
    engine: VllmEngine, models: list[Path]
) -> None:
    await swap(engine, models[0])
    asked = request(num_return_sequences=6, max_new_tokens=900, seed=9, stop_token_ids=(3, 4, 5))
    asked = replace(asked, goes_on=True, stop_token_ids=(3, 4, 5))
    answer = asyncio.create_task(engine.generate(asked))
    await until_true(lambda: {one.ended for one in engine.partials(asked.request_id)} == {True, False})
    ended = {one.sample: one.completion for one in engine.partials(asked.request_id) if one.ended}

    await swap(engine, models[1], "abort")

    found = await answer
    assert [len(found[sample].token_ids) for sample in ended] == [len(one.token_ids) for one in ended.values()]
    assert {found[sample].finish_reason for sample in ended} == {"stop"}
    assert "abort" in {one.finish_reason for one in found}


async def test_a_request_that_does_not_go_on_starts_again_as_ever(engine: VllmEngine, models: list[Path]) -> None:
    await swap(engine, models[0])
    asked = request(max_new_tokens=LENGTH)
    answers = await in_flight(engine, [asked])

    new = await swap(engine, models[1], "abort")

    ((found,),) = await answers
    assert (found.finish_reason, found.version_spans) == ("length", ((new, LENGTH),))


@needs_told_versions
async def test_the_spans_of_a_part_are_exact_across_a_swap(engine: VllmEngine, models: list[Path]) -> None:
    old = await swap(engine, models[0])
    asked = request(max_new_tokens=LENGTH, seed=3)
    answers = await in_flight(engine, [asked])

    new = await swap(engine, models[1])
    await until_true(lambda: len(engine.partials(asked.request_id)[0].completion.version_spans) > 1)
    (partial,) = engine.partials(asked.request_id)

    ((whole,),) = await answers
    (by_old, so_far), (first, all_of_it) = partial.completion.version_spans, whole.version_spans
    assert partial.completion.spans_exact
    assert by_old == first == (old, first[1])
    assert (so_far[0], all_of_it[0]) == (new, new)
    assert partial.completion.token_ids.tolist() == whole.token_ids[: by_old[1] + so_far[1]].tolist()
