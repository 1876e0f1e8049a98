"""Images in the prompts of trainers: out of conversations, sent as files, checked against what workers saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import PromptsError
from ..images.given import Images, files_of
from .shared import Tokenizer, chat_ids

MAKERS = "give workers and trainer the same processor, with the same limits of an image's pixels"


def prompt_of(processor: Tokenizer, messages: Sequence[Any], row: int, **template: Any) -> tuple[list[int], list[Any]]:
    """A conversation as ids, with one placeholder for each image, and its images in order.

    `processor`: of images and texts, where there are images; else a tokenizer will do. Raises `PromptsError` for
    content that is neither text nor image.
    """
    images = [_image(part, row) for message in messages for part in _parts(message) if part.get("type") != "text"]
    if not images:
        return chat_ids(processor, messages, row, **template), []
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise PromptsError("prompts", "has an image, and the trainer a tokenizer only: give the model's processor", row)
    text = processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False, **template)
    return list(tokenizer(text, add_special_tokens=not _begins(text, tokenizer))["input_ids"]), images


def expanded_by(processor: Any, messages: Sequence[Any], **template: Any) -> Mapping[str, Any]:
    """What the trainer's own processor makes of a conversation: `input_ids` (1, P), and what its model needs beside."""
    given: Mapping[str, Any] = processor.apply_chat_template(
        [list(messages)], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **template
    )
    return given


def check_same(what: str, row: int, trained: Sequence[int], sampled: Sequence[int]) -> None:
    """Raises `PromptsError` unless the trainer has the ids of a prompt that the workers sampled from."""
    if list(trained) != list(sampled):
        problem = f"the trainer has {len(trained)} ids with its images expanded, the workers have {len(sampled)}"
        raise PromptsError(what, f"{problem}, or other ones: {MAKERS}", row)


def as_files(images: Sequence[Sequence[Any]]) -> list[list[bytes]]:
    """Each image as its file, so that prompts with the same images are known to be the same.

    Raises `ImagesError`.
    """
    given: Images = images
    return files_of(given, len(images))


def _parts(message: Any) -> list[Any]:
    return message["content"] if isinstance(message["content"], list) else []


def _image(part: Mapping[str, Any], row: int) -> Any:
    if part.get("type") != "image":
        raise PromptsError(
            "prompts", f"has content of type {part.get('type')!r}: only text and images are sampled", row
        )
    image = part.get("image")
    if isinstance(image, Mapping):  # as a dataset has it that decodes none
        image = image.get("bytes")
    if image is None:
        raise PromptsError("prompts", "has an image without its content: give it under 'image'", row)
    return image


def _begins(text: str, tokenizer: Any) -> bool:
    """Whether the template itself wrote the token that a tokenizer puts in front."""
    begin = getattr(tokenizer, "bos_token", None)
    return begin is not None and text.startswith(begin)
