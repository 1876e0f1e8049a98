"""A stand-in for a model's processor of images and texts, which expands images as the stub engine does."""

from __future__ import annotations

from typing import Any

import torch

IMAGE = "@"
IMAGE_ID = ord(IMAGE)
SAMPLED_FROM = "--engine", "stub", "--stub-vocab-size", "256", "--stub-image-token", str(IMAGE_ID)
"""Flags of its workers."""


class TextTokenizer:
    """A character is its code point."""

    bos_token = None
    pad_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        assert add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}


class Processor:
    """`$` begins the assistant's turn, `@` stands for an image; `patch`: pixels of a side that an id stands for."""

    image_token_id = IMAGE_ID
    pad_token_id: int | None = 0

    def __init__(self, patch: int = 16) -> None:
        self.tokenizer = TextTokenizer()
        self._patch = patch

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        text = "".join(_text(message["content"]) for message in conversation) + "$"
        return [ord(letter) for letter in text] if kwargs["tokenize"] else text

    def __call__(self, *, text: list[str], images: list[Any], return_tensors: str, text_kwargs: Any) -> dict[str, Any]:
        assert (return_tensors, text_kwargs) == ("pt", {"add_special_tokens": True})
        left = iter(images)
        ids = [
            one for letter in text[0] for one in [ord(letter)] * (self._length(next(left)) if letter == IMAGE else 1)
        ]
        return {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids)),
            "pixel_values": torch.zeros(len(images), 3),
            "image_grid_thw": torch.tensor([[1, *self._grid(image)] for image in images]),
        }

    def _grid(self, image: Any) -> tuple[int, int]:
        return -(-image.height // self._patch), -(-image.width // self._patch)

    def _length(self, image: Any) -> int:
        height, width = self._grid(image)
        return 1 + height * width


class RopeProcessor(Processor):
    """One whose model counts positions in three dimensions."""

    def get_rope_index(
        self, *, input_ids: Any, attention_mask: Any, image_grid_thw: Any, video_grid_thw: Any
    ) -> tuple[Any, None]:
        assert video_grid_thw is None
        images = 0 if image_grid_thw is None else len(image_grid_thw)
        return torch.stack([attention_mask * images, input_ids, attention_mask]), None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] if part["type"] == "text" else IMAGE for part in content)
