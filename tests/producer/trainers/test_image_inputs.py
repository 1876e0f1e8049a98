"""What a trainer's processor is given of images: the pixels that workers see, and no sampled id for an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rollstream import PromptsError
from rollstream.producer.trainers.images import as_files, processed, rendered
from rollstream.producer.trainers.verl_images import position_ids
from rollstream.schemas import ImageSpan
from tests.support.images.processor import IMAGE_ID, Processor


class TypedProcessor(Processor):
    """One that counts images by the types of ids, as transformers does from 5.3 on: each run of them takes a grid."""

    def get_rope_index(
        self, *, input_ids: Any, attention_mask: Any, image_grid_thw: Any, video_grid_thw: Any, mm_token_type_ids: Any
    ) -> tuple[Any, None]:
        assert (video_grid_thw, input_ids.shape) == (None, attention_mask.shape)
        grids: Any = None if image_grid_thw is None else iter(image_grid_thw)
        for kind, _ in groupby(mm_token_type_ids[0][attention_mask[0].bool()].tolist()):
            if kind:
                next(grids)
        return torch.stack([mm_token_type_ids] * 3), None


class UntypedProcessor(Processor):
    """One that counts images by their placeholders, as transformers did before."""

    def get_rope_index(
        self, *, input_ids: Any, attention_mask: Any, image_grid_thw: Any, video_grid_thw: Any
    ) -> tuple[Any, None]:
        assert (video_grid_thw, input_ids.shape) == (None, attention_mask.shape)
        assert image_grid_thw is None or image_grid_thw.shape == (1, 3)
        return torch.stack([(input_ids == IMAGE_ID).long()] * 3), None


@pytest.mark.parametrize("processor", [TypedProcessor(), UntypedProcessor()], ids=["by types", "by ids"])
@pytest.mark.parametrize("images", [1, 0], ids=["beside an image", "in a row of text"])
def test_a_sampled_placeholder_is_no_image_to_verls_positions(processor: Any, images: int) -> None:
    seen = [[0, 0, 97, IMAGE_ID, IMAGE_ID, 98, 5, IMAGE_ID, 6, 0], [0, 0, 0, 0, 97, 98, IMAGE_ID, 5, IMAGE_ID, 0]]
    mask = [[0, 0, 1, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]]
    batch = {"input_ids": torch.tensor(seen[-1 - images :]), "attention_mask": torch.tensor(mask[-1 - images :])}
    inputs: list[dict[str, Any]] = [{"image_grid_thw": torch.tensor([[1, 1, 2]])}] * images + [{}]
    spans: Sequence[Any] = [(ImageSpan(offset=1, length=2, was=(IMAGE_ID,)),), ()] if images else ()

    found = position_ids(processor, batch, inputs, spans)

    assert found[-1, 1].tolist() == [0] * 10
    if images:
        assert found[0, 1].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0]


class Keeping(Processor):
    """Keeps the images that it was given."""

    given: list[Any]

    def __call__(self, *, text: list[str], images: list[Any], **how: Any) -> dict[str, Any]:
        self.given = images
        return super().__call__(text=text, images=images, **how)


FLAT = np.arange(3 * 8 * 3, dtype=np.uint8).reshape(3, 8, 3)
"""Its height is 3, which processors take for the channels."""
THROUGH = Image.new("RGBA", (8, 4), (200, 100, 50, 10))
GREY = Image.new("L", (8, 4), 77)


@pytest.mark.parametrize(
    ("image", "pixels"),
    [
        (FLAT, FLAT),
        (THROUGH, np.full((4, 8, 3), (200, 100, 50), np.uint8)),
        (GREY, np.full((4, 8, 3), 77, np.uint8)),
    ],
    ids=["an array of height 3", "with an alpha channel", "grey"],
)
def test_the_trainers_processor_sees_the_pixels_that_workers_see(image: Any, pixels: Any) -> None:
    keeping = Keeping()
    told = rendered(keeping, [{"content": [{"type": "image", "image": image}]}], 0)

    processed(keeping, told, as_files([told])[0], 0)

    (seen,) = keeping.given
    assert isinstance(seen, Image.Image)
    assert np.array_equal(np.asarray(seen), pixels)


def test_a_placeholder_in_a_text_beside_an_image_names_its_row() -> None:
    told = rendered(Processor(), [{"content": [{"type": "image", "image": GREY}, {"type": "text", "text": "@"}]}], 0)

    with pytest.raises(PromptsError, match="row 7: the processor refuses it: StopIteration, as where a text has"):
        processed(Processor(), told, as_files([told])[0], 7)


CALL = {"role": "assistant", "tool_calls": [{"name": "look"}]}


class CallingProcessor(Processor):
    """Its template writes nothing for a message that only calls tools."""

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        return super().apply_chat_template([one for one in conversation if one.get("content")], **kwargs)


def test_a_message_that_only_calls_tools_has_no_image() -> None:
    told = rendered(CallingProcessor(), [{"content": "a"}, CALL, {**CALL, "content": None}, {"content": "b"}], 0)

    assert (told.text, told.images) == ("ab$", [])


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"content": ["a"]}, "row 3: has a str among the parts of a message"),
        ("a", "row 3: has a str among its messages"),
    ],
    ids=["a part", "a message"],
)
def test_what_is_no_mapping_names_its_row(message: Any, said: str) -> None:
    with pytest.raises(PromptsError, match=said):
        rendered(Processor(), [message], 3)
