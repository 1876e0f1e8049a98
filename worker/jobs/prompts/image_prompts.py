"""Prompts and rows with their images, as the engine takes them: expanded, or refused by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.schemas.wire.images import ImageRef, ImageSpan, are_alike
from rollstream.schemas.wire.parts import expanded_of
from rollstream.schemas.wire.sizes.result_size import MAX_RESULT_BYTES, result_bytes

from ...engine import Engine, EngineInfo
from ...errors import DataError
from ...images.supply import ImageSupply
from ...requests import Expanded
from .gate import Gate
from .sampled_placeholders import Known

_NOTHING = Known()
_PIXEL_BYTES = 24
"""What vLLM's processor of Qwen2-VL makes of a pixel: two frames of three float32."""


class Seen(NamedTuple):
    """What the model saw of a prompt with images: samples of one group follow the same."""

    ids: str | None = None
    """The digest of the expanded ids."""
    processor: str | None = None
    """See `ImageSpan.processor`."""


NOTHING_SEEN = Seen()
"""A prompt without images."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """What a group is sampled from, or the beginning of a row that is scored."""

    ids: NDArray[np.int32]
    """(prompt_len,), expanded."""
    refs: tuple[ImageRef, ...] = ()
    images: Expanded | None = None

    @property
    def seen(self) -> Seen:
        """By which a part tells whether it follows this prompt."""
        return NOTHING_SEEN if self.images is None else Seen(expanded_of(self.ids), self.spans[0].processor)

    @property
    def spans(self) -> tuple[ImageSpan, ...]:
        """Where its images lie."""
        return () if self.images is None else self.images.spans


def check_offered(refs: Sequence[ImageRef], info: EngineInfo) -> None:
    """Raises `DataError` for a group with images that this engine cannot take.

    To be called before the ids are checked: placeholders are no ids of a model for text.
    """
    if not refs or "images" in info.features:
        return
    why = dict(info.missing).get("images")
    problem = f"images: this worker's engine ({info.runs_on or 'of an unknown release'}) takes none"
    raise DataError(ErrorCode.UNSUPPORTED, "images", f"{problem}: {why}" if why else problem)


def check_none_wanted(ids: NDArray[np.int32], info: EngineInfo) -> None:
    """Raises `DataError` if `ids` (int32, (length,)) have a placeholder, and no image comes with them."""
    if info.image_ids and (found := info.image_ids.intersection(ids.tolist())):
        problem = (
            f"images: the prompt has placeholders of images (id {min(found)}) and no images: the model would see "
            "nothing there; submit the images, or another prompt"
        )
        raise DataError(ErrorCode.IMAGE_REFUSED, "images", problem)


def check_fits(prompt: Prompt, config: GenerationConfig) -> None:
    """Raises `DataError` if the expanded prompt leaves no room in a result: the producer knew it unexpanded."""
    if result_bytes(config, len(prompt.ids)) > MAX_RESULT_BYTES:
        problem = (
            f"images: a prompt of {len(prompt.ids)} ids with them leaves no room in a result: ask for less a prompt"
        )
        raise DataError(ErrorCode.TOO_LONG, "images", problem)


class ImagePrompts:
    """Fetches, decodes and expands. Pixels of few prompts are in memory at once, whatever is queued."""

    def __init__(self, *, engine: Engine, images: ImageSupply, max_pixels: int, max_bytes: int) -> None:
        """`max_pixels`: how many may be decoded at once; `max_bytes`: see `room`. A prompt with more goes alone."""
        self._engine = engine
        self._images = images
        self._gate = Gate(lambda: max_pixels)
        self._room = Gate(lambda: max_bytes)

    @asynccontextmanager
    async def room(self, refs: Sequence[ImageRef], sequences: int) -> AsyncIterator[None]:
        """Inside this context so many requests may carry what the processor makes of these images, a copy each."""
        if not refs:
            yield
            return
        pixels = sum(ref.width * ref.height for ref in refs)
        async with self._room.passed(pixels * _PIXEL_BYTES * sequences):
            yield

    async def prompt(self, ids: NDArray[np.int32], refs: Sequence[ImageRef], known: Known = _NOTHING) -> Prompt:
        """The prompt that begins with what is `known` and ends with `ids` (int32, (new,)), which have the placeholders
        of its last images; all are ids of the model's vocabulary. A placeholder that was sampled is no image.

        Raises `DataError`.
        """
        info = self._engine.info
        if not refs:
            check_none_wanted(ids, info)
            return Prompt(ids=np.concatenate([known.ids, ids]))
        if len(refs) > info.max_images:
            problem = f"images: {len(refs)} of them, and the worker's --max-images allows {info.max_images} a prompt"
            raise DataError(ErrorCode.IMAGE_REFUSED, "images", problem)
        async with self._gate.passed(sum(ref.width * ref.height for ref in refs)):
            asked = np.concatenate([known.hidden(info.image_ids), ids])
            expanded = await self._engine.expand(asked.tolist(), await self._images.pictures(refs))
            expanded = known.put_back(expanded, info.image_ids)
        return Prompt(ids=np.array(expanded.ids, np.int32), refs=tuple(refs), images=expanded)

    async def again(self, ids: NDArray[np.int32], refs: Sequence[ImageRef], spans: Sequence[ImageSpan]) -> Prompt:
        """Expand a prompt or row again whose `ids` have images at `spans` already; ids behind the last image stay, and
        so do placeholders elsewhere, which were sampled.

        Raises `DataError`, also if this worker makes other ids or pixels of the images than those that were sent.
        """
        end = spans[-1].offset + spans[-1].length
        found = await self.prompt(ids[:0], refs, Known(ids=ids[:end], spans=tuple(spans)))
        if not np.array_equal(found.ids, ids[:end]) or not are_alike(found.spans, spans):
            made = f"expands the prompt to {len(found.ids)} ids, and not to the {end} that were sent"
            if np.array_equal(found.ids, ids[:end]):
                made = "makes other pixels of the images"
            problem = f"images: this worker {made}: it has another processor of images than the worker that sampled"
            raise DataError(ErrorCode.IMAGE_REFUSED, "images", problem)
        return Prompt(ids=ids, refs=tuple(refs), images=found.images)
