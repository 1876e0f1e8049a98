"""A second family, with an engine of its own: its placeholder is not what stands for the image once it is expanded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import DataError
from rollstream.worker.requests import ScoreRequest
from tests.support.engine.engine_requests import ATOL, ON_GPU, end, request, settings
from tests.support.engine.vision_models import PLACEHOLDER, VisionReference, picture, write_vision_model

pytestmark = [pytest.mark.vllm, pytest.mark.large, pytest.mark.asyncio(loop_scope="module")]

_GPU_ALONE = pytest.mark.skipif(not ON_GPU, reason="vLLM's attention on the CPU is refused for it")
FAMILY = "Gemma 3"
NEWLINE, TWO, THREE = 6, 7, 8
BEGIN, END, SOFT = 4, 5, 3


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("gemma") / "boot", FAMILY)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gemmas(gemma: Path) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(settings(gemma, max_model_len=256, max_images=2))
    await engine.start()
    yield engine
    await end(engine)


@pytest.mark.skipif(ON_GPU, reason="it is the CPU's attention that leaves something out")
async def test_images_that_look_both_ways_are_refused_on_the_cpu_and_text_is_served(gemmas: VllmEngine) -> None:
    why = dict(gemmas.info.missing)["images"]

    assert "both ways" in why
    with pytest.raises(DataError, match="takes no images"):
        await gemmas.expand(PLACEHOLDER[FAMILY], [picture(1)])
    assert (await gemmas.generate(request(gemmas, [20, 21], max_new_tokens=2, ignore_eos=True)))[0].token_ids.size == 2


@_GPU_ALONE
async def test_a_newline_before_an_image_melts_into_what_surrounds_it(gemmas: VllmEngine) -> None:
    found = await gemmas.expand([20, NEWLINE, *PLACEHOLDER[FAMILY], 30], [picture(1)])

    assert found.ids == [20, THREE, BEGIN, *[SOFT] * 4, END, TWO, 30]
    assert [(span.offset, span.length, span.was) for span in found.spans] == [(1, 8, (NEWLINE, BEGIN))]
    assert set(gemmas.info.image_ids) == {BEGIN, SOFT}


@_GPU_ALONE
async def test_another_family_gives_what_transformers_gives(gemmas: VllmEngine, gemma: Path) -> None:
    pictures = [picture(2), picture(3, 56, 140)]
    prompt = [20, *PLACEHOLDER[FAMILY], 30, 31, *PLACEHOLDER[FAMILY], 32]
    expanded = await gemmas.expand(prompt, pictures)
    asked = request(gemmas, expanded.ids, temperature=0, max_new_tokens=8, ignore_eos=True)

    (found,) = await gemmas.generate(replace(asked, images=expanded))
    tokens = found.token_ids.tolist()
    scored = await gemmas.score(
        ScoreRequest(request_id="s", token_ids=[*expanded.ids, *tokens], first=len(expanded.ids), top_logprobs=0,
                     adapter=None, images=expanded)
    )  # fmt: skip

    known = VisionReference(gemma).logprobs(expanded, pictures, tokens)
    assert scored.logprobs == pytest.approx(known, abs=ATOL)
