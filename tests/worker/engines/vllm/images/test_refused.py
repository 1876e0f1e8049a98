"""Images that the model's processing refuses are answered with its reason, not with what vLLM was given."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest

from rollstream.schemas import ErrorCode
from rollstream.worker.engines.vllm.images.expanding import Images
from rollstream.worker.engines.vllm.images.placeholders import Found
from rollstream.worker.errors import DataError
from rollstream.worker.requests import Picture

PAD = 3
RATIO = "absolute aspect ratio must be smaller than 200, got 300.0"


async def refusing(*_given: Any) -> NoReturn:
    """As vLLM does around a processor."""
    try:
        raise ValueError(RATIO)
    except ValueError as error:
        raise ValueError("Failed to apply Processor on data={'images': [<Image at 0x7FBE>]}") from error


@dataclass
class Info:
    """What is read of an `EngineInfo`."""

    max_images: int = 4
    missing: tuple[tuple[str, str], ...] = ()
    features: frozenset[str] = frozenset({"images"})


def engine() -> Images:
    made: Any = Images()
    made._info = Info()
    made._calls = SimpleNamespace(answer=lambda call: call)
    processor = SimpleNamespace(dummy_inputs=SimpleNamespace(get_dummy_text=lambda _: "<pad>"))
    made._llm = SimpleNamespace(
        renderer=SimpleNamespace(process_for_engine_async=refusing, get_mm_processor=lambda: processor),
        tokenizer=SimpleNamespace(encode=lambda *_, **__: [PAD]),
    )
    return made  # type: ignore[no-any-return] # mypy sees what it was made as


async def test_a_picture_that_is_refused_is_told_by_its_own_reason() -> None:
    images = engine()
    images._placeholder = Found(was=(PAD,), ids=frozenset({PAD}))
    picture = Picture(sha256="0" * 64, pixels=np.zeros((2, 600, 3), np.uint8))

    with pytest.raises(DataError) as raised:
        await images.expand([PAD], [picture])

    assert raised.value.code is ErrorCode.IMAGE_REFUSED
    assert raised.value.message == f"images: the model's processing of images refuses them: ValueError: {RATIO}"


async def test_a_model_that_refuses_the_first_image_takes_none_and_says_why() -> None:
    images: Any = engine()

    await images._look_at_images()

    why = f"its processing of an image failed at the start: ValueError: {RATIO}"
    assert (images._info.max_images, images._info.features, images._info.missing) == (
        0,
        frozenset(),
        (("images", why),),
    )
