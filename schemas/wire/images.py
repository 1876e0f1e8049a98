"""Images beside prompts: which files they are, and where in an expanded prompt each of them lies. No pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .fields import Count, Digest, Index

MAX_IMAGES = 64
"""Most images of one prompt."""
MAX_IMAGE_BYTES = 16 * 2**20
"""Most bytes of an image's file."""
MAX_PIXELS = 64 * 2**20
"""Most pixels of an image, width times height."""
MAX_SIDE = 65_535
"""Most pixels of a side: the formats have no more."""

ImageFormat = Literal["png", "jpeg", "webp"]


class ImageRef(BaseModel):
    """An image by the digest of its file, which lies in Redis; what its header says of it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """That of the bytes of the file."""
    nbytes: Annotated[int, Field(ge=1, le=MAX_IMAGE_BYTES)]
    format: ImageFormat
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    height: Annotated[int, Field(ge=1, le=MAX_SIDE)]

    @model_validator(mode="after")
    def _pixels_are_bounded(self) -> Self:
        if self.width * self.height > MAX_PIXELS:
            raise ValueError(f"{self.width} x {self.height} pixels are more than {MAX_PIXELS}")
        return self


Images = Annotated[tuple[ImageRef, ...], Field(max_length=MAX_IMAGES)]
"""The images of one prompt, in the order of their placeholders."""


class ImageSpan(BaseModel):
    """Where an image lies in an expanded prompt: `length` ids from `offset` on stand for it, in place of `was`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    offset: Index
    length: Count
    was: Annotated[tuple[Index, ...], Field(max_length=64)]
    """The ids of the prompt as it was submitted: the image's placeholder."""
    processor: Digest | None = None
    """The digest of what its worker's processor of images makes of a picture that is the same for all. None: not told.

    Processors that differ in their mean or their filter make the same room, and other pixels.
    """

    @property
    def place(self) -> tuple[int, int, tuple[int, ...]]:
        """All but the processor."""
        return self.offset, self.length, self.was


ImageSpans = Annotated[tuple[ImageSpan, ...], Field(max_length=MAX_IMAGES)]
"""One for each image of a prompt, in their order."""


def collapsed(ids: NDArray[np.int32], spans: Sequence[ImageSpan]) -> NDArray[np.int32]:
    """`ids` (int32, (length,)) with each span's placeholder in its place again: what was submitted."""
    pieces, at = [], 0
    for span in spans:
        pieces += [ids[at : span.offset], np.array(span.was, np.int32)]
        at = span.offset + span.length
    return np.concatenate([*pieces, ids[at:]]) if pieces else ids


def are_alike(spans: Sequence[ImageSpan], others: Sequence[ImageSpan]) -> bool:
    """Whether both are the same places, of the same processor as far as both tell theirs."""
    return len(spans) == len(others) and all(
        span == other or (None in (span.processor, other.processor) and span.place == other.place)
        for span, other in zip(spans, others, strict=True)
    )


def grown(spans: Sequence[ImageSpan]) -> int:
    """By how many ids the prompt grew when its placeholders were expanded."""
    return sum(span.length - len(span.was) for span in spans)


def check_images(field: str, of_groups: Sequence[object], groups: int) -> None:
    """Raises `ValueError` unless it is empty or has one item for each group."""
    if of_groups and len(of_groups) != groups:
        raise ValueError(f"{field}: {len(of_groups)} items for {groups} groups")


def check_spans(images: Sequence[ImageRef], spans: Sequence[ImageSpan], length: int) -> None:
    """Raises `ValueError` unless there is one span for each image, in order, apart, and within `length` ids."""
    if len(images) != len(spans):
        raise ValueError(f"image_spans: {len(spans)} of them for {len(images)} images")
    at = 0
    for span in spans:
        if span.offset < at or span.offset + span.length > length:
            raise ValueError(f"image_spans: {span.length} ids from {span.offset} on overlap others or exceed {length}")
        at = span.offset + span.length
