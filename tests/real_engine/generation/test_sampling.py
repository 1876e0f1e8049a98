"""Every way to sample on the real vLLM engine (CPU, float32), against transformers on the same weights."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollstream.producer.demo.tiny_model import write_adapter, write_model
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.requests import Adapter
from tests.support.engine.engine_requests import ATOL, PROMPT, end, generate, ids, settings
from tests.support.engine.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


async def test_n_samples_are_complete_and_distinct(engine: VllmEngine) -> None:
    found = await generate(engine, num_return_sequences=8, ignore_eos=True, max_new_tokens=24)

    assert [len(completion.token_ids) for completion in found] == [24] * 8
    assert len({tuple(tokens) for tokens in ids(found)}) == 8
    assert {completion.finish_reason for completion in found} == {"length"}
    assert {completion.stop_reason for completion in found} == {None}
    assert [completion.version_spans for completion in found] == [((0, 24),)] * 8
    assert all(completion.logprobs is not None and completion.logprobs.shape == (24,) for completion in found)


async def test_no_logprobs_where_none_are_asked_for(engine: VllmEngine) -> None:
    (found,) = await generate(engine, logprobs=None)

    assert found.logprobs is None


async def test_any_of_several_eos_ids_ends_a_completion_and_stays_in_it(engine: VllmEngine) -> None:
    bias = {7: 4.0, 9: 4.0, 2: 4.0}
    found = await generate(
        engine, eos_token_id=(7, 9), logit_bias=bias, num_return_sequences=16, max_new_tokens=200, seed=1
    )

    assert {completion.stop_reason for completion in found} == {7, 9}
    assert {completion.finish_reason for completion in found} == {"stop"}
    for completion, tokens in zip(found, ids(found), strict=True):
        assert tokens[-1] == completion.stop_reason
        assert not {7, 9} & set(tokens[:-1])
    assert any(2 in tokens for tokens in ids(found)), "the model's own EOS is no EOS for this config"


async def test_the_models_eos_ends_a_completion_by_default(engine: VllmEngine) -> None:
    (found,) = await generate(engine, logit_bias={2: 100.0})

    assert (ids([found]), found.finish_reason, found.stop_reason) == ([[2]], "stop", 2)


async def test_ignore_eos_goes_on_to_the_length(engine: VllmEngine) -> None:
    (found,) = await generate(engine, logit_bias={2: 100.0}, ignore_eos=True)

    assert (ids([found]), found.finish_reason, found.stop_reason) == ([[2] * 16], "length", None)


async def test_a_stop_id_ends_even_when_eos_is_ignored(engine: VllmEngine) -> None:
    (free,) = await generate(engine, temperature=0, ignore_eos=True)
    tokens = free.token_ids.tolist()

    (found,) = await generate(engine, temperature=0, ignore_eos=True, stop_token_ids=(tokens[5],))

    assert (found.finish_reason, found.stop_reason) == ("stop", tokens[5])
    assert found.token_ids.tolist() == tokens[: tokens.index(tokens[5]) + 1]


async def test_no_eos_before_min_new_tokens(engine: VllmEngine) -> None:
    (found,) = await generate(engine, logit_bias={2: 100.0, 9: 50.0}, stop_token_ids=9, min_new_tokens=5)

    tokens = found.token_ids.tolist()
    assert (len(tokens), tokens[-1], found.finish_reason) == (6, 2, "stop")
    assert not {2, 9} & set(tokens[:5])


async def test_min_new_tokens_bans_nothing_where_nothing_ends(engine: VllmEngine) -> None:
    (found,) = await generate(engine, logit_bias={2: 100.0}, ignore_eos=True, min_new_tokens=16)

    assert ids([found]) == [[2] * 16]


@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_string_cuts_the_text_and_keeps_the_tokens(engine: VllmEngine, include: bool) -> None:
    (free,) = await generate(engine, temperature=0, ignore_eos=True, stop_strings="never sampled", max_new_tokens=40)
    assert free.text is not None
    assert (free.finish_reason, len(free.token_ids)) == ("length", 40)
    wanted = re.findall("[a-z]{2}", free.text)[3]
    upto = free.text.index(wanted)

    (found,) = await generate(
        engine, temperature=0, ignore_eos=True, stop_strings=("never sampled", wanted), max_new_tokens=40,
        include_stop_str_in_output=include,
    )  # fmt: skip

    assert (found.finish_reason, found.stop_reason) == ("stop", wanted)
    assert found.text == free.text[:upto] + (wanted if include else "")
    assert 0 < len(found.token_ids) < 40
    assert found.token_ids.tolist() == free.token_ids[: len(found.token_ids)].tolist()
    assert found.logprobs is not None
    assert len(found.logprobs) == len(found.token_ids)


async def test_allowed_ids_are_the_only_ones(engine: VllmEngine) -> None:
    (found,) = await generate(engine, allowed_token_ids=(10, 11, 12), max_new_tokens=30)

    assert set(found.token_ids.tolist()) == {10, 11, 12}


async def test_bad_words_are_never_sampled(engine: VllmEngine) -> None:
    # Ids 259 and 260 are the tokenizer's first letter pairs; 10 apart, the lesser is drawn now and then.
    bias = {259: 100.0, 260: 60.0}
    (free,) = await generate(engine, logit_bias=bias)
    (found,) = await generate(engine, logit_bias=bias, bad_words="ee")

    assert set(free.token_ids.tolist()) == {259}
    assert set(found.token_ids.tolist()) == {260}


SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "T=0.7": {"temperature": 0.7},
    "T=1.5": {"temperature": 1.5},
    "top_k": {"temperature": 0.7, "top_k": 20},
    "top_p": {"temperature": 0.7, "top_p": 0.8},
    "min_p": {"temperature": 1.3, "min_p": 0.05},
    "repetition": {"temperature": 0.9, "repetition_penalty": 1.4},
}


@pytest.mark.parametrize("name", [None, "math@1"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_logprobs_are_those_of_the_sampling_distribution(
    engine: VllmEngine,
    adapters: dict[str | None, Adapter | None],
    reference: Callable[[str | None], Reference],
    name: str | None,
    shape: str,
) -> None:
    # With a seed: now and then a token is so near the limit of min_p or top_p that rounding decides whether it is kept.
    options: dict[str, Any] = {"seed": 7, "num_return_sequences": 2, "ignore_eos": True, "max_new_tokens": 24}
    found = await generate(engine, PROMPT, adapters[name], **options, **SHAPES[shape])

    for completion in found:
        expected = reference(name).logprobs(PROMPT, completion.token_ids.tolist(), **SHAPES[shape])
        assert completion.logprobs == pytest.approx(expected, abs=ATOL)


async def test_next_tokens_are_the_likeliest_with_raw_logprobs(
    engine: VllmEngine, adapters: dict[str | None, Adapter | None], reference: Callable[[str | None], Reference]
) -> None:
    for name in (None, "math@2"):
        found = await engine.next_tokens("next", PROMPT, 40, adapters[name])

        expected = reference(name).logits(PROMPT, [0])[0].log_softmax(-1).sort(descending=True)
        assert (found.version, found.version_exact) == (0, True)
        assert [token for token, _ in found.candidates] == expected.indices[:40].tolist()
        assert [logprob for _, logprob in found.candidates] == pytest.approx(expected.values[:40].tolist(), abs=ATOL)


async def test_greedy_is_transformers_greedy(
    engine: VllmEngine, adapters: dict[str | None, Adapter | None], reference: Callable[[str | None], Reference]
) -> None:
    for name in (None, "code@1"):
        (found,) = await generate(engine, PROMPT, adapters[name], temperature=0, ignore_eos=True, max_new_tokens=48)

        expected, _ = reference(name).generate(PROMPT, 48, eos_token_id=None)
        assert ids([found]) == expected


async def test_a_seed_gives_the_same_tokens_alone_and_in_a_burst(engine: VllmEngine) -> None:
    options = {"seed": 77, "num_return_sequences": 3, "ignore_eos": True, "max_new_tokens": 32}
    alone = await generate(engine, **options)

    others = [generate(engine, [9, i, 4], ignore_eos=True, max_new_tokens=40, seed=i) for i in range(30)]
    burst = await asyncio.gather(generate(engine, **options), *others)

    assert ids(burst[0]) == ids(alone)
    assert burst[0][0].logprobs == pytest.approx(alone[0].logprobs, abs=ATOL)
    assert ids(await generate(engine, **{**options, "seed": 78})) != ids(alone)


async def test_sample_i_has_the_seed_plus_i(engine: VllmEngine) -> None:
    three = await generate(engine, seed=500, num_return_sequences=3)
    single = [await generate(engine, seed=500 + i) for i in range(3)]

    assert ids(three) == [ids(one)[0] for one in single]


async def test_adapters_and_base_in_one_burst_give_what_each_gives_alone(
    engine: VllmEngine, adapters: dict[str | None, Adapter | None]
) -> None:
    options = {"seed": 3, "ignore_eos": True, "max_new_tokens": 20}
    alone = {name: await generate(engine, PROMPT, adapter, **options) for name, adapter in adapters.items()}
    assert len({tuple(ids(found)[0]) for found in alone.values()}) == 4

    names = list(adapters) * 6
    burst = await asyncio.gather(*(generate(engine, PROMPT, adapters[name], **options) for name in names))

    assert [ids(found) for found in burst] == [ids(alone[name]) for name in names]


async def test_two_contents_of_one_name_are_told_apart_in_one_burst(
    engine: VllmEngine, adapters: dict[str | None, Adapter | None], adapter_dir: Path
) -> None:
    options = {"seed": 3, "ignore_eos": True, "max_new_tokens": 20}
    renewed, *others = [Adapter(name="math@1", int_id=200, path=adapter_dir / "math@2")] + [
        Adapter(name=f"other@{number}", int_id=200 + number, path=adapter_dir / "code@1") for number in range(1, 5)
    ]
    alone = [await generate(engine, PROMPT, adapters[name], **options) for name in ("math@1", "math@2")]
    for adapter in (renewed, *others):  # the last four take all places in a batch
        await engine.load_adapter(adapter)

    burst = await asyncio.gather(
        *(generate(engine, PROMPT, adapter, **options) for adapter in (adapters["math@1"], renewed) * 6)
    )

    assert [ids(found) for found in burst] == [ids(found) for found in alone] * 6
    for adapter in (renewed, *others):
        await engine.unload_adapter(adapter)


@pytest.mark.large
async def test_a_bfloat16_engine_gives_raw_logprobs_near_those_of_float32(tmp_path: Path) -> None:
    model = write_model(tmp_path / "bf16", dtype="bfloat16", tokenizer=False)
    folder = write_adapter(tmp_path, "math@1", model=model, seed=1)
    engine = VllmEngine(settings(model, tmp_path, dtype="auto", logprobs_mode="raw"))
    await engine.start()
    try:
        adapter = AdapterFolder(root=tmp_path, max_rank=16, model=model).find("math@1")
        await engine.load_adapter(adapter)
        sampled: dict[str, Any] = {
            "temperature": 0.7, "logprobs": "raw", "num_return_sequences": 8, "ignore_eos": True, "max_new_tokens": 32,
        }  # fmt: skip
        base = await generate(engine, top_logprobs=5, **sampled)
        adapted = await generate(engine, adapter=adapter, **sampled)
    finally:
        await end(engine)

    for found, reference in ((base, Reference(model)), (adapted, Reference(model, folder))):
        gaps = [c.logprobs - reference.logprobs(PROMPT, c.token_ids.tolist()) for c in found if c.logprobs is not None]
        assert len(gaps) == 8
        assert np.abs(gaps).mean() < 0.1
    assert "sampling_support" not in engine.info.features
    plain = Reference(model)
    for one in base:
        by_rank = plain.logits(PROMPT, one.token_ids.tolist()).log_softmax(-1).topk(5).values
        assert one.top_logprobs is not None
        assert np.abs(one.top_logprobs - by_rank.numpy()).mean() < 0.1
        assert (np.diff(one.top_logprobs) <= 0).all()
