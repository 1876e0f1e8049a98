"""Images in the prompts of trainers: out of conversations, sent as files, checked against what workers saw."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollstream.schemas.wire.images import ImageRef

from ..errors import PromptsError
from ..images.errors import ImagesError
from ..images.given import files_of
from .shared import Tokenizer, chat_ids

_REMEDY = "give workers and trainer the same processor, with the same limits of an image's pixels"
_FAILURES = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError, OSError,
    StopIteration,
)  # fmt: skip
"""What processors and Pillow raise for images that they cannot use."""
_PART = {"type", "image", "bytes", "path"}
"""What the part of a message that is an image may say; a dataset that decodes none has the last two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A prompt that was rendered by the trainer's chat template."""

    ids: list[int]
    """With one placeholder for each image."""
    text: str = ""
    """Where a processor rendered it."""
    images: list[Any] = field(default_factory=list)
    """In the order of their placeholders."""


def rendered(
    processor: Tokenizer, messages: Sequence[Any], row: int, images: Sequence[Any] | None = None, **template: Any
) -> Conversation:
    """A conversation as ids and images: those in its messages, or `images` in their places.

    `processor`: of images and texts, where there are images; else a tokenizer will do. Raises `PromptsError` for
    messages that are none, and for content that is neither text nor image.
    """
    parts = [part for message in messages for part in _parts(message, row) if part.get("type") != "text"]
    for part in parts:
        if part.get("type") != "image":
            raise PromptsError("prompts", f"has content that is no text and no image: {part.get('type')!r}", row)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None and parts:
        raise PromptsError("prompts", "has an image: give the model's processor, a tokenizer alone is not enough", row)
    if tokenizer is None:
        return Conversation(ids=chat_ids(processor, messages, row, **template))
    found = [_image(part, row) for part in parts] if images is None else list(images) if parts else []
    text = processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False, **template)
    ids = tokenizer(text, add_special_tokens=not _has_bos(text, tokenizer))["input_ids"]
    return Conversation(ids=list(ids), text=text, images=found)


def processed(processor: Any, prompt: Conversation, files: Sequence[bytes], row: int) -> dict[str, Any]:
    """What the trainer's own processor makes of a prompt with images: `input_ids` (1, P) and what its model needs.

    It sees `files`, as `as_files` gives them, decoded as workers do: of an array or of an image with an alpha channel
    it might make other pixels. Called before anything is submitted, so that what it refuses costs no sampling. Raises
    `ImagesError` for a file that cannot be decoded, and `PromptsError` for what the processor refuses.
    """
    images = [_decoded(data, row, place) for place, data in enumerate(files)]
    special = not _has_bos(prompt.text, processor.tokenizer)
    try:
        made = processor(
            text=[prompt.text], images=images, return_tensors="pt", text_kwargs={"add_special_tokens": special}
        )
    except _FAILURES as error:
        told = f"{type(error).__name__}: {error}"
        if isinstance(error, StopIteration):  # says nothing itself
            told = "StopIteration, as where a text has more placeholders than images"
        raise PromptsError("prompts", f"the processor refuses it: {told}", row) from error
    return dict(made)


def check_same(what: str, row: int, trained: Sequence[int], sampled: Sequence[int]) -> None:
    """Raises `PromptsError` unless the trainer has the ids of a prompt that the workers sampled from."""
    if list(trained) != list(sampled):
        problem = f"with its images expanded the trainer has {len(trained)} ids, and the workers have {len(sampled)}"
        raise PromptsError(what, f"{problem} or other ones: {_REMEDY}", row)


def as_files(prompts: Sequence[Conversation]) -> list[list[bytes]]:
    """Each image as its file, so that prompts with the same images are known to be the same. Raises `ImagesError`, also
    for a reference: nobody has its pixels here."""
    for row, prompt in enumerate(prompts):
        for place, image in enumerate(prompt.images):
            if isinstance(image, ImageRef):
                told = "a reference has no pixels for the trainer's model: give the image itself"
                raise ImagesError(told, row, place)
    return files_of([prompt.images for prompt in prompts], len(prompts))


def _parts(message: Any, row: int) -> list[Any]:
    """The parts of a message's content; none where it is a text, or absent, as beside calls of tools."""
    if not isinstance(message, Mapping):
        raise PromptsError("prompts", f"has a {type(message).__name__} among its messages: give mappings", row)
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    for part in parts:
        if not isinstance(part, Mapping):
            told = f"has a {type(part).__name__} among the parts of a message: give mappings, such as"
            raise PromptsError("prompts", f"{told} {{'type': 'text', 'text': ...}}", row)
    return parts


def _image(part: Mapping[str, Any], row: int) -> Any:
    if others := sorted(set(part) - _PART):
        raise PromptsError("prompts", f"has an image with {others[0]!r}: scale it before, and leave that out", row)
    image = part.get("image", part)
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if image is None:
        raise PromptsError("prompts", "has an image without its content: give it under 'image'", row)
    return Path(image) if isinstance(image, str) and "://" not in image[:16] else image


def _decoded(data: bytes, row: int, place: int) -> Any:
    """A file as a PIL image in RGB, turned and without its alpha channel, as workers see it."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - trainers of text do without it

    try:
        with Image.open(io.BytesIO(data)) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (*_FAILURES, SyntaxError, EOFError) as error:
        raise ImagesError(f"it cannot be decoded: {type(error).__name__}: {error}", row, place) from None


def _has_bos(text: str, tokenizer: Any) -> bool:
    """Whether the template itself wrote what a tokenizer would put in front."""
    begin = getattr(tokenizer, "bos_token", None)
    return begin is not None and text.startswith(begin)
