"""The stub makes room for images by their size, and another image is another prompt to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.schemas.wire.images import collapsed
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import DataError
from rollstream.worker.requests import Expanded, GenerateRequest, Picture, ScoreRequest

IMAGE = 9


def engine(**changes: Any) -> StubEngine:
    return StubEngine(WorkerSettings(policy="p", engine="stub", stub_image_token=IMAGE, **changes))


def picture(width: int, height: int, sha256: str = "c" * 64) -> Picture:
    return Picture(sha256=sha256, pixels=np.zeros((height, width, 3), np.uint8))


async def test_a_placeholder_makes_room_by_the_size_of_its_image() -> None:
    found = await engine().expand([1, 9, 2, 9], [picture(6, 4), picture(33, 16)])

    assert found.ids == [1, 9, 9, 2, 9, 9, 9, 9]
    assert [span.place for span in found.spans] == [(1, 2, (9,)), (4, 4, (9,))]
    assert collapsed(np.array(found.ids, np.int32), found.spans).tolist() == [1, 9, 2, 9]


@pytest.mark.parametrize("prompt", [[1, 2], [9, 9], []])
async def test_as_many_placeholders_as_images_are_needed(prompt: list[int]) -> None:
    with pytest.raises(DataError, match=f"{prompt.count(9)} placeholders .* and 1 images") as caught:
        await engine().expand(prompt, [picture(6, 4)])

    assert caught.value.code == ErrorCode.IMAGE_REFUSED


async def test_without_a_placeholder_or_with_no_image_allowed_it_takes_text_alone() -> None:
    for one in (StubEngine(WorkerSettings(policy="p", engine="stub")), engine(max_images=0)):
        assert "images" not in one.info.features
        assert "images" in dict(one.info.missing)
    assert ("images" in engine().info.features, engine().info.max_images, engine().info.image_ids) == (
        True,
        8,
        frozenset({9}),
    )


async def tokens(images: Expanded) -> list[int]:
    request = GenerateRequest(
        request_id="r", prompt=images.ids, config=GenerationConfig(max_new_tokens=8, seed=3), stop_token_ids=(),
        seed=3, adapter=None, images=images,
    )  # fmt: skip
    (completion,) = await engine().generate(request)
    listed: list[int] = completion.token_ids.tolist()
    return listed


async def scores(images: Expanded) -> list[float]:
    row = [*images.ids, 5, 6]
    asked = ScoreRequest(request_id="r", token_ids=row, first=3, top_logprobs=0, adapter=None, images=images)
    found: list[float] = (await engine().score(asked)).logprobs.tolist()
    return found


async def test_another_image_is_another_prompt() -> None:
    cat, same, dog = [await engine().expand([1, 9], [picture(6, 4, name * 64)]) for name in "ccd"]

    assert cat.ids == dog.ids
    assert await tokens(cat) == await tokens(same) != await tokens(dog)
    assert await scores(cat) == await scores(same) != await scores(dog)
