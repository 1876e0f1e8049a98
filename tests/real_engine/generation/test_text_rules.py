"""Guides, thinking budgets and the end of repetition on the real vLLM engine (CPU, float32)."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from rollstream.producer.gateway.chat.choices import forced_call
from rollstream.producer.gateway.chat.parsers import parser_named
from rollstream.schemas import ErrorCode
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import DataError
from tests.support.engine.engine_requests import ATOL, PROMPT, generate, ids, skip_without
from tests.support.engine.transformers_reference import Reference

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


@pytest.mark.parametrize("parser", ["hermes", "llama3"])
async def test_a_call_that_a_request_forces_is_a_call(engine: VllmEngine, tokenizer: Any, parser: str) -> None:
    tool = {"type": "function", "function": {"name": "look-up", "parameters": {}}}
    guide = forced_call("required", [tool], parser_named(parser, ""))
    assert guide is not None
    empty = dict.fromkeys(tokenizer.encode("}", add_special_tokens=False), 100.0)

    found = await generate(
        engine, guided=guide, num_return_sequences=4, seed=3, max_new_tokens=120, logit_bias=empty, stop_token_ids=[EOS]
    )

    for completion in found:
        parsed = parser_named(parser, "").read(tokenizer.decode(completion.token_ids[:-1]), {"look-up": {}})
        assert {(call.name, call.arguments) for call in parsed.calls} == {("look-up", "{}")}


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


@pytest.mark.parametrize("logprobs", ["processed", "raw"])
async def test_guided_log_probs_are_those_of_what_the_guide_left(
    engine: VllmEngine, tokenizer: Any, reference: Callable[[str | None], Reference], logprobs: str
) -> None:
    (found,) = await generate(engine, guided={"regex": "[abc]+x"}, seed=1, max_new_tokens=100, logprobs=logprobs)

    left = _left(tokenizer, reference(None), found.token_ids.tolist())
    assert found.logprobs is not None
    np.testing.assert_allclose(found.logprobs, left[np.arange(len(left)), found.token_ids], atol=ATOL)


@pytest.mark.parametrize("logprobs", ["processed", "raw"])
async def test_candidates_and_labels_that_a_guide_rules_out_have_minus_infinity(
    engine: VllmEngine, tokenizer: Any, reference: Callable[[str | None], Reference], logprobs: str
) -> None:
    asked: dict[str, Any] = {"guided": {"regex": "[abc]+x"}, "max_new_tokens": 100, "logprobs": logprobs}
    labels = [token for text in "axz" for token in tokenizer.encode(text, add_special_tokens=False)]

    (top,), (labelled,), (supported,) = await asyncio.gather(
        generate(engine, top_logprobs=64, seed=1, **asked),
        generate(engine, label_token_ids=labels, seed=2, **asked),
        generate(engine, sampling_support=True, top_k=60, seed=3, **asked | {"logprobs": "processed"}),
    )

    left = _left(tokenizer, reference(None), top.token_ids.tolist())
    assert top.top_token_ids is not None
    assert top.top_logprobs is not None
    assert (np.isfinite(left).sum(1) < 64).all()
    np.testing.assert_allclose(top.top_logprobs, -np.sort(-left)[:, :64], atol=ATOL)
    np.testing.assert_allclose(top.top_logprobs, np.take_along_axis(left, top.top_token_ids, 1), atol=ATOL)
    left = _left(tokenizer, reference(None), labelled.token_ids.tolist())
    assert labelled.label_logprobs is not None
    np.testing.assert_allclose(labelled.label_logprobs, left[:, labels], atol=ATOL)
    assert np.isneginf(labelled.label_logprobs[:, -1]).all()
    left = _left(tokenizer, reference(None), supported.token_ids.tolist())
    assert supported.support_ids is not None
    assert supported.support_lengths is not None
    kept = np.split(supported.support_ids, np.cumsum(supported.support_lengths)[:-1])
    assert [set(ids.tolist()) for ids in kept] == [set(np.flatnonzero(np.isfinite(row)).tolist()) for row in left]


def _left(tokenizer: Any, reference: Reference, token_ids: list[int]) -> NDArray[np.float32]:
    """(L, 512): the log-probs of what `[abc]+x` leaves for each token of a text that ends with it."""
    texts = [tokenizer.decode([token]) for token in range(512)]
    allowed = np.array([re.fullmatch("[abc]+x?|x", text) is not None for text in texts])
    logits = reference.logits(PROMPT, token_ids).numpy()
    logits[:, ~allowed] = -np.inf
    logits[0, [text == "x" for text in texts]] = -np.inf  # the text may not begin with it
    logits[-1] = np.where(np.arange(512) == EOS, 0.0, -np.inf)
    return torch.from_numpy(logits).log_softmax(-1).numpy()


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


@pytest.mark.parametrize("ends", [{}, {"ignore_eos": True}])
@pytest.mark.parametrize("least", [0, 50])
async def test_what_repeats_itself_is_ended_with_a_reason_of_its_own(
    engine: VllmEngine, least: int, ends: dict[str, Any]
) -> None:
    (found,) = await generate(
        engine,
        logit_bias={77: 100.0},
        stop_on_repetition={"max_pattern_size": 4, "min_count": 5},
        max_new_tokens=100,
        min_new_tokens=least,
        **ends,
    )

    assert (found.finish_reason, found.stop_reason) == ("repetition", None)
    assert found.token_ids.tolist() == [77] * max(least, 5)
    assert found.logprobs is not None
    assert len(found.logprobs) == len(found.token_ids)


async def test_a_thinking_budget_forces_the_end_and_says_so(engine: VllmEngine, tokenizer: Any) -> None:
    skip_without("thinking_budget", engine)
    start, end = (tokenizer.encode(mark, add_special_tokens=False)[0] for mark in "[]")
    asked = {"thinking_budget": 40, "ignore_eos": True, "max_new_tokens": 100, "num_return_sequences": 4, "seed": 1}

    found = await generate(engine, [*PROMPT, start], logit_bias={end: -100.0, start: -100.0}, **asked)

    for completion in found:
        assert completion.forced is not None
        assert np.flatnonzero(completion.forced).tolist() == [40]
        assert completion.token_ids[40] == end


async def test_an_end_of_thinking_that_was_sampled_is_not_forced(engine: VllmEngine, tokenizer: Any) -> None:
    skip_without("thinking_budget", engine)
    start, end = (tokenizer.encode(mark, add_special_tokens=False)[0] for mark in "[]")

    (found,) = await generate(
        engine, [*PROMPT, start], thinking_budget=8, ignore_eos=True, max_new_tokens=20, logit_bias={end: 100.0}
    )

    assert found.token_ids[0] == end
    assert found.forced is not None
    assert not found.forced.any()


@pytest.mark.large
@pytest.mark.timeout(300)
async def test_a_guide_that_is_slow_behind_a_rare_text_ends_its_request_and_is_refused_from_then_on(
    engine: VllmEngine, tokenizer: Any
) -> None:
    rare, slow = "zqzqzqzq", tokenizer.convert_tokens_to_ids(["z", "a"])
    many = " | ".join(" ".join("s" * count) for count in range(14, 1, -1))
    guided = {"grammar": f'root ::= [b-y]+ | "{rare}" s\ns ::= {many} | "a"'}
    asked = {"guided": guided, "logit_bias": dict.fromkeys(slow, 100.0), "max_new_tokens": 900, "ignore_eos": True}

    with pytest.raises(DataError, match="in the middle of a completion"):
        await generate(engine, **asked)
    began = time.monotonic()
    with pytest.raises(DataError, match="in the middle of a completion"):
        await generate(engine, **asked)
    [other] = await generate(engine, guided={"choice": ["yes", "no"]}, max_new_tokens=20)

    assert time.monotonic() - began < 20
    assert tokenizer.decode(other.token_ids.tolist(), skip_special_tokens=True) in {"yes", "no"}
