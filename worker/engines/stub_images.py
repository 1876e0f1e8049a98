"""What the stub does with images: it makes room for each by its size, and samples otherwise for another image. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rollstream.schemas import ErrorCode, ImageSpan

from ..errors import DataError
from ..requests import Expanded, Picture

_PATCH = 16
"""Pixels of a side of what one id stands for."""
_MEAN = 0.5
"""What is taken off a pixel before the model sees it, as a processor of a real model does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StubImages:
    """One id is the placeholder of an image, and stands for each part of it too; None: the stub takes text alone."""

    token: int | None
    most: int

    @property
    def features(self) -> frozenset[str]:
        """Whether it takes images."""
        return frozenset() if self.token is None or not self.most else frozenset({"images"})

    @property
    def info(self) -> dict[str, Any]:
        """The fields of `EngineInfo` that tell of images."""
        if not self.features:
            return {"missing": (("images", "the stub takes them with --stub-image-token and --max-images"),)}
        return {"max_images": self.most, "image_ids": frozenset({self.token})}

    def expand(self, prompt: Sequence[int], pictures: Sequence[Picture]) -> Expanded:
        """See `Engine.expand`."""
        if self.token is None:
            raise DataError(ErrorCode.UNSUPPORTED, "images", "images: the stub has no --stub-image-token")
        if (places := prompt.count(self.token)) != len(pictures):
            problem = f"images: the prompt has {places} placeholders (id {self.token}) and {len(pictures)} images"
            raise DataError(ErrorCode.IMAGE_REFUSED, "images", problem)
        ids, spans, left = list[int](), list[ImageSpan](), iter(pictures)
        for token in prompt:
            length = _length(next(left)) if token == self.token else 1
            if token == self.token:
                spans.append(ImageSpan(offset=len(ids), length=length, was=(token,), processor=_processor()))
            ids += [token] * length
        return Expanded(ids=ids, spans=tuple(spans), fed=tuple(picture.sha256 for picture in pictures))


def seen(images: Expanded | None) -> str:
    """What makes the completions of a prompt with these images other ones; empty without images."""
    return "" if images is None else "|".join(images.fed)


def _processor() -> str:
    """See `ImageSpan.processor`."""
    return hashlib.sha256(str(_MEAN).encode()).hexdigest()


def _length(picture: Picture) -> int:
    height, width = int(picture.pixels.shape[0]), int(picture.pixels.shape[1])
    return 1 + -(-height // _PATCH) * -(-width // _PATCH)
