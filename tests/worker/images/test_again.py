"""A row with images is scored against the pixels that it was sampled from, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollstream.schemas.wire.images import ImageRef
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import DataError
from rollstream.worker.jobs.prompts.image_prompts import ImagePrompts
from rollstream.worker.requests import Picture

REF = ImageRef(sha256="c" * 64, nbytes=10, format="png", width=6, height=4)


class Pictures:
    """What a supply of images gives."""

    async def pictures(self, refs: Any) -> list[Picture]:
        return [Picture(sha256=ref.sha256, pixels=np.zeros((ref.height, ref.width, 3), np.uint8)) for ref in refs]


def prompts() -> ImagePrompts:
    engine = StubEngine(WorkerSettings(policy="p", engine="stub", stub_image_token=9))
    images: Any = Pictures()
    return ImagePrompts(engine=engine, images=images, max_pixels=1000, max_bytes=1000)


async def test_a_row_of_other_pixels_is_refused_and_one_that_does_not_say_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampled = await prompts().prompt(np.array([1, 9, 2], np.int32), [REF])
    row = np.concatenate([sampled.ids, np.array([5, 6], np.int32)])

    assert (await prompts().again(row, [REF], sampled.spans)).spans == sampled.spans
    monkeypatch.setattr("rollstream.worker.engines.stub_images._MEAN", 0.4)
    with pytest.raises(DataError, match="this worker makes other pixels of the images: it has another") as refused:
        await prompts().again(row, [REF], sampled.spans)
    assert refused.value.code == "image_refused"
    untold = [span.model_copy(update={"processor": None}) for span in sampled.spans]
    assert (await prompts().again(row, [REF], untold)).ids.tolist() == row.tolist()
