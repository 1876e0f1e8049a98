"""Every kind of generation on the real vLLM engine (CPU, float32), against transformers on the same weights."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from rollstream.producer.demo.tiny_model import write_adapter, write_model
from rollstream.schemas import ErrorCode
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.engine import Adapter
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import DataError, SettingsError
from rollstream.worker.jobs.beam_search import beam_search
from tests.support.engine_requests import PROMPT, end, generate, ids, request, settings
from tests.support.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_model: Path, adapter_dir: Path) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(settings(tiny_model, adapter_dir))
    await engine.start()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def adapters(engine: VllmEngine, tiny_model: Path, adapter_dir: Path) -> dict[str | None, Adapter | None]:
    """Loaded, by name; None is the base model."""
    directory = AdapterFolder(root=adapter_dir, max_rank=16, model=tiny_model)
    found = [directory.find(name) for name in ("math@1", "math@2", "code@1")]
    for adapter in found:
        await engine.load_adapter(adapter)
    return {None: None, **{adapter.name: adapter for adapter in found}}


@pytest.fixture(scope="module")
def reference(tiny_model: Path, adapter_dir: Path) -> Callable[[str | None], Reference]:
    return cache(lambda name: Reference(tiny_model, None if name is None else adapter_dir / name))


async def test_the_info_is_the_models_own(engine: VllmEngine) -> None:
    info = engine.info

    assert (info.vocab_size, info.max_model_len, info.max_num_seqs) == (512, 1024, 64)
    assert (info.eos_token_ids, info.max_logprobs) == ((2,), 128)
    assert (info.logprobs_flavour, info.has_tokenizer) == ("processed", True)


async def test_no_collection_of_garbage_walks_what_vllm_imported(engine: VllmEngine) -> None:
    assert gc.get_freeze_count() > 10 * len(gc.get_objects())


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
    # Ids 259 and 260 are the tokenizer's first letter pairs.
    bias = {259: 100.0, 260: 90.0}
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
    found = await generate(
        engine, PROMPT, adapters[name], num_return_sequences=2, ignore_eos=True, max_new_tokens=24, **SHAPES[shape]
    )

    for completion in found:
        expected = reference(name).logprobs(PROMPT, completion.token_ids.tolist(), **SHAPES[shape])
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


async def test_next_tokens_are_the_likeliest_with_raw_logprobs(
    engine: VllmEngine, adapters: dict[str | None, Adapter | None], reference: Callable[[str | None], Reference]
) -> None:
    for name in (None, "math@2"):
        found = await engine.next_tokens("next", PROMPT, 40, adapters[name])

        expected = reference(name).logits(PROMPT, [0])[0].log_softmax(-1).sort(descending=True)
        assert (found.version, found.version_exact) == (0, True)
        assert [token for token, _ in found.candidates] == expected.indices[:40].tolist()
        assert [logprob for _, logprob in found.candidates] == pytest.approx(expected.values[:40].tolist(), abs=1e-4)


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
    assert burst[0][0].logprobs == pytest.approx(alone[0].logprobs, abs=1e-4)
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
    anew, *others = [Adapter(name="math@1", int_id=200, path=adapter_dir / "math@2")] + [
        Adapter(name=f"other@{number}", int_id=200 + number, path=adapter_dir / "code@1") for number in range(1, 5)
    ]
    alone = [await generate(engine, PROMPT, adapters[name], **options) for name in ("math@1", "math@2")]
    for adapter in (anew, *others):  # the last four take all places in a batch
        await engine.load_adapter(adapter)

    burst = await asyncio.gather(
        *(generate(engine, PROMPT, adapter, **options) for adapter in (adapters["math@1"], anew) * 6)
    )

    assert [ids(found) for found in burst] == [ids(found) for found in alone] * 6
    for adapter in (anew, *others):
        await engine.unload_adapter(adapter)


BEAMS: dict[str, dict[str, Any]] = {
    "early_stopping=False": {},
    "early_stopping=True": {"early_stopping": True},
    "early_stopping=never": {"early_stopping": "never"},
    "length_penalty=0.5": {"length_penalty": 0.5},
    "length_penalty=2": {"length_penalty": 2.0},
    "length_penalty=-1": {"length_penalty": -1.0},
    "never, length_penalty=2": {"early_stopping": "never", "length_penalty": 2.0},
    "min_new_tokens": {"min_new_tokens": 8},
}


@pytest.mark.parametrize("name", [None, "math@1"])
@pytest.mark.parametrize("options", BEAMS)
async def test_beams_are_transformers_beams(
    engine: VllmEngine,
    adapters: dict[str | None, Adapter | None],
    reference: Callable[[str | None], Reference],
    name: str | None,
    options: str,
) -> None:
    stops = await _reachable_stops(engine, adapters[name])
    wanted = request(
        engine, PROMPT, adapters[name], num_beams=4, num_return_sequences=3, eos_token_id=stops, **BEAMS[options]
    )

    found = await beam_search(engine, wanted)

    tokens, scores = reference(name).generate(
        PROMPT, 16, num_beams=4, num_return_sequences=3, eos_token_id=list(stops), **BEAMS[options]
    )
    for beam, expected in zip(found, tokens, strict=True):
        length = len(beam.token_ids)
        assert beam.token_ids.tolist() == expected[:length]
        assert set(expected[length:]) <= {stops[0]}, "transformers pads with the first EOS id when pad is 0"
        assert beam.logprobs == pytest.approx(reference(name).logprobs(PROMPT, expected[:length]), abs=1e-4)
    assert [beam.score for beam in found] == pytest.approx(scores, rel=1e-6, abs=1e-4)


async def _reachable_stops(engine: VllmEngine, adapter: Adapter | None) -> tuple[int, ...]:
    """Two ids that beams come upon, so that stopping is really at work (the model's own EOS is rare)."""
    beams = await beam_search(engine, request(engine, PROMPT, adapter, num_beams=4, ignore_eos=True))
    tokens = beams[0].token_ids.tolist()
    return tuple(sorted({tokens[4], tokens[9]}))


async def test_a_cancelled_call_aborts_its_request_in_the_engine(engine: VllmEngine) -> None:
    call = asyncio.create_task(generate(engine, num_return_sequences=4, ignore_eos=True, max_new_tokens=1000))
    await _until(lambda: _unfinished(engine) == 4)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert _unfinished(engine) == 0
    await engine.check()


async def test_an_interrupt_of_the_terminal_leaves_the_engine_to_its_worker(engine: VllmEngine) -> None:
    call = asyncio.create_task(generate(engine, ignore_eos=True, max_new_tokens=100))
    await _until(lambda: _unfinished(engine) == 1)

    for pid in engine._processes.pids:
        os.kill(pid, signal.SIGINT)

    (found,) = await call
    assert (len(found.token_ids), found.finish_reason) == (100, "length")
    await engine.check()


async def test_concurrent_callers_load_an_adapter_once(engine: VllmEngine, tiny_model: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path, "new@1", model=tiny_model, seed=9)
    adapter = Adapter(name="new@1", int_id=100, path=tmp_path / "new@1")

    await asyncio.gather(*(engine.load_adapter(adapter) for _ in range(10)))

    (found,) = await generate(engine, PROMPT, adapter, temperature=0)
    (base,) = await generate(engine, PROMPT, temperature=0)
    assert ids([found]) != ids([base])


async def test_an_adapter_that_vllm_refuses_may_be_loaded_once_it_is_mended(
    engine: VllmEngine, tiny_model: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path, "late@1", model=tiny_model, seed=9)
    config = folder / "adapter_config.json"
    kept = config.read_bytes()
    config.unlink()
    adapter = Adapter(name="late@1", int_id=101, path=folder)

    with pytest.raises(DataError) as raised:
        await engine.load_adapter(adapter)
    config.write_bytes(kept)
    await engine.load_adapter(adapter)

    assert raised.value.code == ErrorCode.ADAPTER_REFUSED
    assert str(tmp_path) not in raised.value.message
    assert len(await generate(engine, PROMPT, adapter)) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"engine_args": {"no_such_argument": 1}}, "no_such_argument"),
        ({"max_model_len": 100_000}, "max_model_len"),
        ({"engine_args": {"logprobs_mode": "nonsense"}}, "logprobs_mode"),
    ],
)
async def test_settings_that_vllm_refuses_are_settings_errors(
    tiny_model: Path, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        await VllmEngine(settings(tiny_model, **fields)).start()


async def test_a_folder_without_a_model_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no config\.json"):
        await VllmEngine(settings(tmp_path)).start()


async def test_on_a_tiny_vocabulary_beams_are_an_exhaustive_search(tmp_path: Path) -> None:
    model = write_model(tmp_path, vocab_size=8, eos_token_ids=(2, 5), tokenizer=False, seed=5)
    engine, reference = VllmEngine(settings(model)), Reference(model)
    await engine.start()
    try:
        assert (engine.info.eos_token_ids, engine.info.has_tokenizer) == ((2, 5), False)
        # 8 ids less 2 that end: 6 beams hold every prefix of one token.
        prompts = [[first, second, 1] for first in range(3) for second in range(3)]
        cases = [(prompt, length_penalty) for prompt in prompts for length_penalty in (0.0, 1.0)]
        options: dict[str, Any] = {"num_beams": 6, "max_new_tokens": 2, "early_stopping": "never"}
        found = await asyncio.gather(
            *(beam_search(engine, request(engine, p, length_penalty=lp, **options)) for p, lp in cases)
        )
    finally:
        await end(engine)

    best = [beams[0].token_ids.tolist() for beams in found]
    assert best == [_exhaustive(reference, prompt, length_penalty, {2, 5}) for prompt, length_penalty in cases]
    assert {len(tokens) for tokens in best} == {1, 2}


def _exhaustive(reference: Reference, prompt: list[int], length_penalty: float, stops: set[int]) -> list[int]:
    """The best of all completions over 8 ids that end in a stop id or after two tokens."""
    scored = []
    for tokens in [*itertools.product(range(8)), *itertools.product(range(8), repeat=2)]:
        ends = tokens[-1] in stops or len(tokens) == 2
        if ends and not stops & set(tokens[:-1]):
            total = float(reference.logprobs(prompt, list(tokens)).sum())
            scored.append((total / len(tokens) ** length_penalty, list(tokens)))
    return max(scored)[1]


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
        base = await generate(engine, **sampled)
        adapted = await generate(engine, adapter=adapter, **sampled)
    finally:
        await end(engine)

    for found, reference in ((base, Reference(model)), (adapted, Reference(model, folder))):
        gaps = [c.logprobs - reference.logprobs(PROMPT, c.token_ids.tolist()) for c in found if c.logprobs is not None]
        assert len(gaps) == 8
        assert np.abs(gaps).mean() < 0.1


def _unfinished(engine: VllmEngine) -> int:
    """Sequences that vLLM still has."""
    return int(engine._llm.output_processor.get_num_unfinished_requests())


async def _until(reached: Callable[[], bool], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not reached():  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0.01)
