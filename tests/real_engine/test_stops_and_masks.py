"""What ends a completion, and what a config forbids, on the real engine (CPU, float32).

The model is as after many a fine-tuning: its configs name another EOS than its tokenizer has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from rollstream.producer.demo.tiny_model import EOS, write_model
from rollstream.schemas import ErrorCode
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import DataError
from rollstream.worker.jobs.beam_search import beam_search
from tests.support.engine.engine_requests import PROMPT, end, generate, ids, request, settings
from tests.support.engine.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

CONFIGS_EOS = 3
OVERFLOWS = 500
"""After this id the logit of another is infinite, though every weight is finite."""
E, EE, OO = 71, 259, 340
"""Ids of the texts e, ee and oo."""
ALTERNATE: dict[str, Any] = {
    "temperature": 0, "ignore_eos": True, "allowed_token_ids": (EE, EOS), "logit_bias": {EE: 50.0},
    "bad_words": ("eeee", "<eos><eos>"),
}  # fmt: skip
"""ee and <eos> in turns, for as long as a completion lasts."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("model"), seed=0, eos_token_ids=(CONFIGS_EOS,))
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][:, 0] = 0  # a direction that is OVERFLOWS's alone
    weights["model.embed_tokens.weight"][OVERFLOWS, 0] = 1e4
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[0] = 0
    weights["lm_head.weight"][:, 0] = 0
    weights["lm_head.weight"][400, 0] = 3e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model: Path) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(settings(model))
    await engine.start()
    yield engine
    await end(engine)


@pytest.fixture(scope="module")
def reference(model: Path) -> Reference:
    return Reference(model)


async def test_the_tokenizers_eos_ends_a_completion_beside_the_models(engine: VllmEngine) -> None:
    found = await generate(
        engine, logit_bias={EOS: 8.0, CONFIGS_EOS: 8.0}, num_return_sequences=16, max_new_tokens=200, seed=1
    )

    assert (engine.info.eos_token_ids, engine.info.spoken_eos_ids) == ((CONFIGS_EOS,), (EOS,))
    assert {completion.stop_reason for completion in found} == {EOS, CONFIGS_EOS}
    assert not any({EOS, CONFIGS_EOS} & set(tokens[:-1]) for tokens in ids(found))


async def test_beams_end_at_the_tokenizers_eos_too(engine: VllmEngine, reference: Reference) -> None:
    found = await beam_search(engine, request(engine, num_beams=8, max_new_tokens=6))

    expected, _ = reference.generate(PROMPT, 6, num_beams=8, eos_token_id=[EOS, CONFIGS_EOS])
    assert found[0].token_ids.tolist() == expected[0][: len(found[0].token_ids)]


@pytest.mark.parametrize(
    ("fields", "banned"),
    [
        ({}, {CONFIGS_EOS}),
        ({"eos_token_id": (5, 6)}, {5, 6}),
        ({"eos_token_id": (5, 6), "stop_token_ids": (7,)}, {5, 6, 7}),
        ({"ignore_eos": True, "stop_token_ids": (7,)}, {7}),
        ({"ignore_eos": True, "stop_strings": "never sampled"}, set()),
        ({"ignore_eos": True}, set()),
    ],
    ids=["model's EOS", "own EOS", "own EOS and stop id", "EOS ignored, stop id", "stop string", "nothing ends"],
)
async def test_min_new_tokens_bans_what_ends_a_completion_and_nothing_else(
    engine: VllmEngine, reference: Reference, fields: dict[str, Any], banned: set[int]
) -> None:
    bias = dict.fromkeys((EOS, CONFIGS_EOS, 5, 6, 7), 4.0)

    found = await generate(
        engine, logit_bias=bias, min_new_tokens=8, max_new_tokens=8, num_return_sequences=4, seed=1, **fields
    )

    for completion in found:
        logits = reference.logits(PROMPT, completion.token_ids.tolist())
        for token, number in bias.items():
            logits[:, token] += number
        logits[:, sorted(banned)] = -torch.inf
        expected = logits.log_softmax(-1)[range(8), completion.token_ids.tolist()]
        assert completion.logprobs == pytest.approx(expected.numpy(), abs=1e-4)


async def test_the_tokenizers_eos_ends_a_completion_that_has_its_min_new_tokens(engine: VllmEngine) -> None:
    bias, n = {EOS: 6.0, CONFIGS_EOS: 6.0}, 32

    found = await generate(
        engine, logit_bias=bias, min_new_tokens=8, max_new_tokens=200, num_return_sequences=n, seed=1
    )

    early = [tokens[:8] for tokens in ids(found)]
    assert any(EOS in tokens for tokens in early), "it is not banned before"
    assert not any(CONFIGS_EOS in tokens for tokens in early)
    assert {completion.stop_reason for completion in found} == {EOS, CONFIGS_EOS}
    assert not any({EOS, CONFIGS_EOS} & set(tokens[8:-1]) for tokens in ids(found))
    assert min(map(len, ids(found))) > 8
    assert all(c.logprobs is not None and len(c.logprobs) == len(c.token_ids) for c in found)
    assert engine._llm.output_processor.get_num_unfinished_requests() == 0


async def test_the_tokenizers_eos_as_the_last_allowed_token_is_a_stop(engine: VllmEngine) -> None:
    (found,) = await generate(engine, temperature=0, logit_bias={EOS: 100.0}, min_new_tokens=3, max_new_tokens=4)

    assert found.token_ids.tolist() == [EOS] * 4
    assert (found.finish_reason, found.stop_reason) == ("stop", EOS)


@pytest.mark.parametrize(
    ("stop", "tokens", "text"),
    [
        ("<eos>", [EE, EOS], "ee"),
        ("e<eos>", [EE, EOS], "e"),
        ("<eos>e", [EE, EOS, EE], "ee"),
        ("os", [EE, EOS], "ee<e"),
        ("eee", [EE, EOS, EE, EOS], "eeee"),
    ],
    ids=["alone", "after text", "before text", "a part of one", "not across one"],
)
@pytest.mark.parametrize("include", [False, True])
async def test_stop_strings_are_looked_for_in_a_text_with_special_tokens(
    engine: VllmEngine, stop: str, tokens: list[int], text: str, include: bool
) -> None:
    (found,) = await generate(
        engine, max_new_tokens=4, stop_strings=stop, include_stop_str_in_output=include, **ALTERNATE
    )

    stopped = len(tokens) < 4
    assert found.token_ids.tolist() == tokens
    assert (found.finish_reason, found.stop_reason) == (("stop", stop) if stopped else ("length", None))
    assert found.text == text + (stop if include and stopped else "")


async def test_min_new_tokens_delays_a_stop_string_that_is_a_special_token(engine: VllmEngine) -> None:
    (found,) = await generate(engine, max_new_tokens=8, min_new_tokens=3, stop_strings="<eos>", **ALTERNATE)

    assert (ids([found]), found.stop_reason) == ([[EE, EOS, EE, EOS]], "<eos>")


async def test_a_stop_string_ends_where_transformers_ends(
    engine: VllmEngine, reference: Reference, model: Path
) -> None:
    prompt, stop = [5, 6, 7], "<eos>"
    expected, _ = reference.generate(
        prompt, 12, eos_token_id=511, stop_strings=[stop], tokenizer=AutoTokenizer.from_pretrained(model),
        sequence_bias=[[[EOS], 100.0]],
    )  # fmt: skip

    (found,) = await generate(
        engine, prompt, temperature=0, stop_strings=stop, ignore_eos=True, logit_bias={EOS: 100.0}, max_new_tokens=12
    )

    assert ids([found]) == expected


NOTHING_LEFT: dict[str, dict[str, Any]] = {
    "every allowed id is a bad word": {"allowed_token_ids": (EE, OO), "bad_words": ("ee", "oo")},
    "the first token makes the next a bad word": {"allowed_token_ids": (EE,), "bad_words": ("eeee",)},
    "what is allowed ends": {"allowed_token_ids": (EE, 0), "bad_words": "ee", "eos_token_id": 0, "min_new_tokens": 2},
}


@pytest.mark.parametrize("logprobs", ["processed", None])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", NOTHING_LEFT)
async def test_where_every_id_is_forbidden_there_is_no_completion(
    engine: VllmEngine, kind: str, temperature: float, logprobs: Any
) -> None:
    with pytest.raises(DataError, match="nothing was left to sample") as caught:
        await generate(engine, temperature=temperature, logprobs=logprobs, max_new_tokens=4, **NOTHING_LEFT[kind])

    assert caught.value.code is ErrorCode.ENGINE_REFUSED


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.0}, {"num_return_sequences": 3, "top_p": 0.5}])
@pytest.mark.parametrize("logprobs", ["processed", None])
async def test_infinite_logits_are_an_error_and_harm_no_other_request(
    engine: VllmEngine, fields: dict[str, Any], logprobs: Any
) -> None:
    beside = asyncio.create_task(generate(engine, seed=9, max_new_tokens=40, ignore_eos=True))

    with pytest.raises(DataError, match="not finite"):
        await generate(engine, [5, OVERFLOWS], logprobs=logprobs, max_new_tokens=1000, ignore_eos=True, **fields)

    assert ids(await beside) == ids(await generate(engine, seed=9, max_new_tokens=40, ignore_eos=True))
    assert engine._llm.output_processor.get_num_unfinished_requests() == 0


async def test_beams_of_infinite_logits_are_an_error(engine: VllmEngine) -> None:
    with pytest.raises(DataError, match="not finite"):
        await beam_search(engine, request(engine, [5, OVERFLOWS], num_beams=2))


async def test_the_extremes_of_every_option_leave_something_to_sample(engine: VllmEngine) -> None:
    extremes: list[dict[str, Any]] = [
        {"temperature": 0.01}, {"temperature": 2.0}, {"top_p": 1e-9}, {"min_p": 1.0}, {"top_k": 2**31 - 1},
        {"top_k": 1}, {"repetition_penalty": 100.0}, {"repetition_penalty": 0.01}, {"presence_penalty": -2.0},
        {"logit_bias": dict.fromkeys(range(512), -100.0)}, {"allowed_token_ids": (7,)},
    ]  # fmt: skip
    found = await asyncio.gather(*(generate(engine, logprobs=None, seed=1, **extreme) for extreme in extremes))

    assert [len(completions) for completions in found] == [1] * len(extremes)


async def test_bad_words_are_banned_as_one_way_of_writing_them(engine: VllmEngine) -> None:
    """As the tokenizer writes them, alone or after a space; what `GenerationConfig.bad_words` says of it."""
    (found,) = await generate(engine, logit_bias={E: 50.0}, bad_words="ee")
    with pytest.raises(DataError, match=r"id 512, outside the model's vocabulary"):
        await generate(engine, bad_words="<|endoftext|>")

    assert set(found.token_ids.tolist()) == {E}, "the same letters from two ids are not banned"
