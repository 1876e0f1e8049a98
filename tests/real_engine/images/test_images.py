"""A model that takes images: what the engine samples and scores is what transformers computes, also after a swap."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rollstream.schemas import ErrorCode
from rollstream.schemas.wire.images import ImageRef, collapsed
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.engines.vllm.images.processor_digest import probe_picture
from rollstream.worker.errors import DataError
from rollstream.worker.jobs.beam_search import beam_search
from rollstream.worker.jobs.prompts.image_prompts import ImagePrompts
from rollstream.worker.jobs.prompts.sampled_placeholders import Known
from rollstream.worker.requests import Adapter, Completion, Expanded, Picture, ScoreRequest
from tests.support.engine.engine_requests import ATOL, WITH_LORA, request
from tests.support.engine.vision_models import (
    PLACEHOLDER,
    VisionReference,
    picture,
    write_vision_adapter,
    write_vision_model,
)

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]

IMAGE = PLACEHOLDER["Qwen2-VL"]
PAD = 3
ONE = [10, 20, *IMAGE, 30, 40]
TWO = [10, *IMAGE, 50, 60, *IMAGE, 70]
REF = ImageRef(sha256="0" * 64, nbytes=1, format="png", width=1, height=1)
_numbers = itertools.count()


async def sampled(
    engine: VllmEngine, expanded: Expanded, adapter: Adapter | None = None, **fields: Any
) -> list[Completion]:
    asked = request(engine, expanded.ids, adapter, ignore_eos=True, logit_bias={PAD: -100.0}, **fields)
    return await engine.generate(replace(asked, images=expanded))


async def scored(
    engine: VllmEngine, expanded: Expanded, tokens: Sequence[int], adapter: Adapter | None = None
) -> np.ndarray[Any, Any]:
    asked = ScoreRequest(
        request_id=f"score/{next(_numbers)}", token_ids=[*expanded.ids, *tokens], first=len(expanded.ids),
        top_logprobs=0, adapter=adapter, images=expanded,
    )  # fmt: skip
    return (await engine.score(asked)).logprobs


async def refusal(engine: VllmEngine, prompt: list[int], pictures: list[Picture]) -> str:
    with pytest.raises(DataError) as raised:
        await engine.expand(prompt, pictures)
    assert raised.value.code is ErrorCode.IMAGE_REFUSED
    return raised.value.message


async def test_it_says_that_it_takes_images_and_which_ids_stand_for_them(engine: VllmEngine) -> None:
    assert "images" in engine.info.features
    assert engine.info.max_images == 3
    assert set(engine.info.image_ids) == {PAD}


async def test_each_placeholder_makes_room_for_its_image_and_the_spans_lead_back(engine: VllmEngine) -> None:
    pictures = [picture(1), picture(2, 56, 56)]

    found = await engine.expand(TWO, pictures)

    assert [(span.length, span.was) for span in found.spans] == [(12, (PAD,)), (4, (PAD,))]
    assert found.ids == [10, 1, *[PAD] * 12, 2, 50, 60, 1, *[PAD] * 4, 2, 70]
    assert collapsed(np.array(found.ids, np.int32), found.spans).tolist() == TWO


async def test_what_its_processor_makes_of_pixels_tells_it_from_others(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = (await engine.expand(ONE, [picture(1)])).spans
    monkeypatch.setattr(engine, "_processor", before.processor)

    await engine._look_at_images()
    (same,) = (await engine.expand(ONE, [picture(1)])).spans
    brighter = replace(probe_picture(), pixels=probe_picture().pixels // 2 + 128)
    monkeypatch.setattr("rollstream.worker.engines.vllm.images.expanding.probe_picture", lambda: brighter)
    await engine._look_at_images()
    (other,) = (await engine.expand(ONE, [picture(1)])).spans

    assert before == same
    assert (other.place, other.processor == before.processor) == (before.place, False)


@pytest.mark.parametrize(("prompt", "count"), [(ONE, 1), (TWO, 2)])
async def test_what_is_sampled_and_scored_is_what_transformers_computes(
    engine: VllmEngine, reference: VisionReference, prompt: list[int], count: int
) -> None:
    pictures = [picture(10 + number, 84 - 28 * number) for number in range(count)]
    expanded = await engine.expand(prompt, pictures)

    found = await sampled(engine, expanded, num_return_sequences=3, temperature=1.0, max_new_tokens=24)

    for one in found:
        tokens = one.token_ids.tolist()
        assert one.logprobs == pytest.approx(reference.logprobs(expanded, pictures, tokens, without=PAD), abs=ATOL)
        assert await scored(engine, expanded, tokens) == pytest.approx(
            reference.logprobs(expanded, pictures, tokens), abs=ATOL
        )


async def test_another_image_is_another_completion_whatever_the_caches_hold(
    engine: VllmEngine, reference: VisionReference
) -> None:
    pictures = [picture(20), picture(21)]
    expanded = [await engine.expand(ONE, [one]) for one in pictures]
    tokens = (await sampled(engine, expanded[0], temperature=0))[0].token_ids.tolist()

    rows = await asyncio.gather(*(scored(engine, one, tokens) for one in [*expanded, expanded[0]]))

    assert rows[0] == pytest.approx(rows[2], abs=ATOL)
    assert rows[1] == pytest.approx(reference.logprobs(expanded[1], pictures[1:], tokens), abs=ATOL)
    assert np.abs(rows[0] - rows[1]).max() > 10 * ATOL


async def test_samples_go_on_from_the_tokens_of_an_earlier_worker(engine: VllmEngine) -> None:
    expanded = await engine.expand(ONE, [picture(30)])
    (whole,) = await sampled(engine, expanded, temperature=0, max_new_tokens=16)
    begun = replace(request(engine, [*expanded.ids, *whole.token_ids[:6].tolist()], temperature=0, max_new_tokens=10,
                            ignore_eos=True, logit_bias={PAD: -100.0}), images=expanded)  # fmt: skip

    (rest,) = await engine.generate(begun)

    assert rest.token_ids.tolist() == whole.token_ids[6:].tolist()


async def test_beams_begin_with_the_image(engine: VllmEngine, reference: VisionReference) -> None:
    pictures = [picture(40)]
    expanded = await engine.expand(ONE, pictures)
    asked = request(engine, expanded.ids, num_beams=3, max_new_tokens=6, ignore_eos=True)

    (best,) = await beam_search(engine, replace(asked, images=expanded))

    assert best.logprobs == pytest.approx(reference.logprobs(expanded, pictures, best.token_ids.tolist()), abs=ATOL)


async def test_a_placeholder_that_was_sampled_is_no_image(engine: VllmEngine) -> None:
    expanded = await engine.expand(ONE, [picture(50)])
    tokens = [100, PAD, 101, 102]

    row = await scored(engine, expanded, tokens)
    (after,) = await engine.generate(
        replace(request(engine, [*expanded.ids, *tokens[:2]], temperature=0, max_new_tokens=1), images=expanded)
    )

    assert np.isfinite(row).all()
    assert row[:2] == pytest.approx((await scored(engine, expanded, [100, PAD])), abs=ATOL)
    assert after.token_ids.size == 1


@pytest.mark.parametrize("count", [0, 1, 2])
async def test_a_conversation_goes_on_after_a_placeholder_that_was_sampled(
    engine: VllmEngine, reference: VisionReference, count: int
) -> None:
    pictures = [picture(51), picture(52, 56, 56)][:count]
    begun = await engine.expand(ONE, pictures[:1]) if pictures else Expanded(ids=[10, 20], spans=())
    known = Known(ids=np.array([*begun.ids, 100, PAD, 101, PAD], np.int32), spans=begun.spans)
    new, room = ([*IMAGE, 60], [1, *[PAD] * 4, 2, 60]) if count == 2 else ([60], [60])

    found = await supplied(engine, pictures).prompt(np.array(new, np.int32), [REF] * count, known)
    asked = request(engine, found.ids.tolist(), ignore_eos=True, logit_bias={PAD: -100.0}, max_new_tokens=12)
    (one,) = await engine.generate(replace(asked, images=found.images))

    assert found.ids.tolist() == [*known.ids.tolist(), *room]
    assert [(span.length, span.was) for span in found.spans] == [(12, (PAD,)), (4, (PAD,))][:count]
    tokens = one.token_ids.tolist()
    with reference.text_of(PAD, {*found.ids.tolist(), *tokens}) as alias:
        ids = [alias if at in known.sampled({PAD}) else token for at, token in enumerate(found.ids.tolist())]
        expected = reference.logprobs(Expanded(ids=ids, spans=found.spans), pictures, tokens, without=PAD)
    assert one.logprobs == pytest.approx(expected, abs=ATOL)


def supplied(engine: VllmEngine, pictures: list[Picture]) -> ImagePrompts:
    """What a worker's jobs are expanded by, for these pictures."""

    async def given(_refs: Any) -> list[Picture]:
        return pictures

    images: Any = SimpleNamespace(pictures=given)
    return ImagePrompts(engine=engine, images=images, max_pixels=2**30, max_bytes=2**30)


@WITH_LORA
async def test_an_adapter_of_peft_beside_images(
    engine: VllmEngine, model: Path, adapters: Path, reference: VisionReference
) -> None:
    adapted = VisionReference(model, adapters / "look@1")
    adapter = AdapterFolder(root=adapters, max_rank=16, model=model).find("look@1")
    await engine.load_adapter(adapter)
    pictures = [picture(60)]
    expanded = await engine.expand(ONE, pictures)

    with_it, without = await asyncio.gather(
        *(sampled(engine, expanded, one, temperature=0, max_new_tokens=12) for one in (adapter, None))
    )

    for (one,), known, used in ((with_it, adapted, adapter), (without, reference, None)):
        tokens = one.token_ids.tolist()
        expected = known.logprobs(expanded, pictures, tokens)
        assert await scored(engine, expanded, tokens, used) == pytest.approx(expected, abs=ATOL)
    assert with_it[0].token_ids.tolist() != without[0].token_ids.tolist()


@WITH_LORA
async def test_an_adapter_on_the_vision_tower_is_refused(engine: VllmEngine, model: Path, tmp_path: Path) -> None:
    write_vision_adapter(model, tmp_path / "tower@1", r".*visual.*\.qkv")

    with pytest.raises(DataError) as raised:
        await engine.load_adapter(AdapterFolder(root=tmp_path, max_rank=16, model=model).find("tower@1"))

    assert raised.value.code is ErrorCode.ADAPTER_REFUSED


@pytest.mark.parametrize("mode", ["keep", pytest.param("abort", marks=pytest.mark.large)])
async def test_a_swap_of_the_vision_tower_alone_changes_what_images_say_and_nothing_of_the_old_one_is_left(
    engine: VllmEngine, model: Path, reference: VisionReference, tmp_path: Path, mode: Any
) -> None:
    changed = write_vision_model(tmp_path / "next", vision_seed=77)
    pictures = [picture(70)]
    expanded = await engine.expand(ONE, pictures)
    tokens = (await sampled(engine, expanded, temperature=0))[0].token_ids.tolist()
    before = await scored(engine, expanded, tokens)
    running = asyncio.create_task(sampled(engine, expanded, temperature=0, max_new_tokens=200))
    await asyncio.sleep(0.1)

    await engine.load_checkpoint(1, changed, mode)

    after = await scored(engine, expanded, tokens)
    known = VisionReference(changed).logprobs(expanded, pictures, tokens)
    assert after == pytest.approx(known, abs=ATOL)
    assert np.abs(after - before).max() > 10 * ATOL
    (one,) = await running
    last = one.token_ids.tolist()
    version, length = one.version_spans[-1]
    if version == 1 and length > 8:  # its last tokens were sampled with the image as the new tower sees it
        row = VisionReference(changed).logprobs(expanded, pictures, last, without=PAD)
        assert one.logprobs is not None
        assert one.logprobs[-8:] == pytest.approx(row[-8:], abs=ATOL)
    await engine.load_checkpoint(0, model, mode)
    assert await scored(engine, expanded, tokens) == pytest.approx(before, abs=ATOL)


async def test_bad_prompts_and_pictures_are_refused_by_name_and_the_engine_lives_on(
    engine: VllmEngine, reference: VisionReference
) -> None:
    good = picture(80)

    assert "2 placeholders (id 3) and 1 images" in await refusal(engine, TWO, [good])
    assert "1 placeholders (id 3) and 2 images" in await refusal(engine, ONE, [good, good])
    assert "0 placeholders" in await refusal(engine, [5, 6], [good])
    assert "submit ids that are not expanded" in await refusal(engine, [1, *[PAD] * 12, 2], [good])
    assert "refuses them: ValueError: absolute aspect ratio" in await refusal(engine, ONE, [picture(81, 2, 1000)])
    expanded = await engine.expand(ONE, [good])
    assert await scored(engine, expanded, [100]) == pytest.approx(reference.logprobs(expanded, [good], [100]), abs=ATOL)
