"""Guides, thinking budgets and the end of repetition on the real vLLM engine (CPU, float32)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from rollstream.schemas import ErrorCode
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import DataError
from tests.support.engine_requests import PROMPT, generate, ids
from tests.support.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]

EOS = 2
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"$ref": "#/$defs/b"}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"b": {"enum": ["x", "y"]}},
}
CHOICES = ["yes", "no", 'a "quoted"\nline \\']


def _is_json(text: str) -> bool:
    found = json.loads(text)
    return set(found) == {"a", "b"} and found["b"] in ("x", "y")


GUIDES = [
    ({"regex": "[a-c]{40}x"}, lambda text: re.fullmatch("[a-c]{40}x", text)),
    ({"json_schema": json.dumps(SCHEMA)}, _is_json),
    ({"choice": CHOICES}, lambda text: text in CHOICES),
    ({"grammar": 'root ::= "ab" tail\ntail ::= ("c" | "d"){3} "e"'}, lambda text: re.fullmatch("ab[cd]{3}e", text)),
]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Any) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize(("guide", "matches"), GUIDES)
@pytest.mark.parametrize("ends", [{}, {"ignore_eos": True}, {"eos_token_id": 7}])
async def test_a_guided_completion_is_what_its_guide_allows_and_ends_there(
    engine: VllmEngine, tokenizer: Any, guide: dict[str, Any], matches: Any, ends: dict[str, Any]
) -> None:
    # White space between the parts of a JSON text is unbounded, and this model likes it.
    quiet = {token: -100.0 for text in " \n\r\t" for token in tokenizer.encode(text, add_special_tokens=False)}

    found = await generate(
        engine, guided=guide, num_return_sequences=4, seed=3, max_new_tokens=120, logit_bias=quiet, **ends
    )

    for completion in found:
        *text, last = completion.token_ids.tolist()
        assert (completion.finish_reason, completion.stop_reason) == ("stop", last)
        assert last == EOS or last in ends.values()
        assert matches(tokenizer.decode(text)), tokenizer.decode(text)


async def test_guided_log_probs_are_those_of_what_the_guide_left(
    engine: VllmEngine, tokenizer: Any, reference: Callable[[str | None], Reference]
) -> None:
    allowed = [token for token in range(512) if re.fullmatch("[abc]+x?|x", tokenizer.decode([token]))]

    (found,) = await generate(engine, guided={"regex": "[abc]+x"}, seed=1, max_new_tokens=100)

    tokens = found.token_ids.tolist()[:-1]
    logits = reference(None).logits(PROMPT, tokens)
    logits[0, tokenizer.encode("x", add_special_tokens=False)] = -np.inf  # the text may not begin with it
    left = logits[:, allowed].log_softmax(-1)
    expected = [left[place, allowed.index(token)].item() for place, token in enumerate(tokens)]
    assert found.logprobs is not None
    np.testing.assert_allclose(found.logprobs, [*expected, 0.0], atol=1e-4)


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        ({"regex": "([a-"}, "Unclosed"),
        ({"json_schema": '{"$ref": "#"}'}, "allows no token"),
        ({"grammar": "root ::= )("}, "parser error"),
        ({"json_schema": '{"$ref": "#/nowhere"}'}, "nowhere|not exist|reference"),
        ({"json_schema": '{"type": "integer", "multipleOf": 3}'}, "not supported"),
    ],
)
async def test_a_guide_that_does_not_compile_is_answered_by_name_and_the_engine_lives_on(
    engine: VllmEngine, guide: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said) as refused:
        await generate(engine, guided=guide)

    assert (refused.value.code, refused.value.field) == (ErrorCode.INVALID_CONFIG, "guided")
    (found,) = await generate(engine, guided={"choice": ["yes"]}, temperature=0.0)
    assert found.stop_reason == EOS


async def test_a_guide_that_other_options_leave_nothing_of_is_an_error_and_the_engine_lives_on(
    engine: VllmEngine,
) -> None:
    for options in ({"min_new_tokens": 10}, {"allowed_token_ids": (5, 6)}, {"min_new_tokens": 10, "logprobs": None}):
        with pytest.raises(DataError) as refused:
            await generate(engine, guided={"choice": ["yes"]}, max_new_tokens=20, **options)
        assert refused.value.code is ErrorCode.ENGINE_REFUSED

    (found,) = await generate(engine, guided={"choice": ["yes"]}, temperature=0.0)
    assert found.stop_reason == EOS


async def test_a_guided_row_changes_nothing_for_the_rows_beside_it(
    engine: VllmEngine, adapters: dict[str | None, Any]
) -> None:
    async def plain(name: str | None) -> list[list[int]]:
        return ids(await generate(engine, PROMPT, adapters[name], temperature=0.0, max_new_tokens=24, ignore_eos=True))

    alone = [await plain(None), await plain("math@1")]
    *beside, guided = await asyncio.gather(
        plain(None),
        plain("math@1"),
        generate(engine, PROMPT, adapters["math@2"], guided={"regex": "[ab]{20}"}, max_new_tokens=40),
    )

    assert beside == alone
    assert guided[0].stop_reason == EOS


@pytest.mark.parametrize("least", [0, 50])
async def test_what_repeats_itself_is_ended_with_a_reason_of_its_own(engine: VllmEngine, least: int) -> None:
    (found,) = await generate(
        engine,
        logit_bias={77: 100.0},
        stop_on_repetition={"max_pattern_size": 4, "min_count": 5},
        max_new_tokens=100,
        min_new_tokens=least,
    )

    assert (found.finish_reason, found.stop_reason) == ("repetition", None)
    assert found.token_ids.tolist() == [77] * max(least, 5)
    assert found.logprobs is not None
    assert len(found.logprobs) == len(found.token_ids)


async def test_a_thinking_budget_forces_the_end_and_says_so(engine: VllmEngine, tokenizer: Any) -> None:
    start, end = (tokenizer.encode(mark, add_special_tokens=False)[0] for mark in "[]")
    asked = {"thinking_budget": 40, "ignore_eos": True, "max_new_tokens": 100, "num_return_sequences": 4, "seed": 1}

    found = await generate(engine, [*PROMPT, start], logit_bias={end: -100.0, start: -100.0}, **asked)

    for completion in found:
        assert completion.forced is not None
        assert np.flatnonzero(completion.forced).tolist() == [40]
        assert completion.token_ids[40] == end


async def test_an_end_of_thinking_that_was_sampled_is_not_forced(engine: VllmEngine, tokenizer: Any) -> None:
    start, end = (tokenizer.encode(mark, add_special_tokens=False)[0] for mark in "[]")

    (found,) = await generate(
        engine, [*PROMPT, start], thinking_budget=8, ignore_eos=True, max_new_tokens=20, logit_bias={end: 100.0}
    )

    assert found.token_ids[0] == end
    assert found.forced is not None
    assert not found.forced.any()
