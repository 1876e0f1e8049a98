"""Images beside prompts: vLLM expands a prompt once, and each of its requests takes what was made of the images.

What is handed to vLLM with a request is whole: its cache of processed images, which each side keeps apart, is off
(`setup.engine_arguments`), so that no request names pixels that the other side does not have.
Imports no vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from rollstream.schemas import ErrorCode

from ....engine import EngineInfo
from ....errors import DataError
from ....requests import Expanded, Picture
from ..calls import Calls
from ..causes import innermost
from .placeholders import Found, counted, found_in, spans_of
from .processor_digest import digest_of, probe_picture

_MODALITY = "image"
_FAILURES = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError, OSError,
    MemoryError,
)  # fmt: skip
"""What processors of models raise for images that they cannot use, such as one that has no pixel left once scaled."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fed:
    """What vLLM made of the images of one prompt."""

    kwargs: Any
    hashes: Mapping[str, list[str]]
    placeholders: Mapping[str, Sequence[Any]]

    def with_ids(self, ids: list[int]) -> dict[str, Any]:
        """vLLM's `MultiModalInput` of a prompt that begins with the expanded one."""
        return {
            "type": "multimodal",
            "prompt_token_ids": ids,
            "mm_kwargs": self.kwargs,
            "mm_hashes": self.hashes,
            "mm_placeholders": self.placeholders,
        }


class Images:
    """The part of an engine over vLLM that takes images. Its owner sets the attributes."""

    _llm: Any
    _calls: Calls
    _info: EngineInfo | None
    _placeholder: Found | None = None
    """What stands for an image in a prompt and in an expanded one; None: the model takes none."""
    _processor: str | None = None
    """See `ImageSpan.processor`."""

    async def _look_at_images(self) -> None:
        """Try, once, an image that no job has: whether the model takes images, and what stands for one in a prompt."""
        if self._info is None or not self._info.max_images:
            return
        try:
            self._placeholder = await self._found()
        except Exception as error:  # noqa: BLE001 - whatever vLLM raises here, prompts without images are served
            why = f"its processing of an image failed at the start: {innermost(error)}"
            missing = (*self._info.missing, ("images", why))
            features = self._info.features - {"images"}
            self._info = replace(self._info, max_images=0, missing=missing, features=features)
        else:
            self._info = replace(self._info, image_ids=self._placeholder.ids)

    async def _found(self) -> Found:
        processor = self._llm.renderer.get_mm_processor()
        text = processor.dummy_inputs.get_dummy_text({_MODALITY: 1})
        prompt = list(self._llm.tokenizer.encode(text, add_special_tokens=False))
        rendered = await self._render(prompt, [probe_picture()])
        self._processor = digest_of([item.get_data() for item in rendered["mm_kwargs"][_MODALITY]])
        return found_in(prompt, *_read(rendered), _covered(rendered))

    async def expand(self, prompt: list[int], pictures: Sequence[Picture]) -> Expanded:
        """See `Engine.expand`. The model's own processing of images runs in a thread of vLLM's."""
        if self._placeholder is None:
            raise _refused("the worker's engine takes no images", ErrorCode.UNSUPPORTED)
        if problem := counted(prompt, self._placeholder, len(pictures)):
            raise _refused(problem)
        try:
            rendered = await self._calls.answer(self._render(prompt, pictures))
            ids, places = _read(rendered)
            spans = spans_of(prompt, ids, places, self._placeholder.was)
        except _FAILURES as error:
            raise _refused(f"the model's processing of images refuses them: {innermost(error)}") from error
        if len(spans) != len(pictures):
            raise _refused(f"vLLM made room for {len(spans)} of {len(pictures)} images")
        named = tuple(span.model_copy(update={"processor": self._processor}) for span in spans)
        fed = Fed(kwargs=rendered["mm_kwargs"], hashes=rendered["mm_hashes"], placeholders=rendered["mm_placeholders"])
        return Expanded(ids=ids, spans=named, fed=fed)

    async def _render(self, prompt: list[int], pictures: Sequence[Picture]) -> Any:
        asked = {
            "prompt_token_ids": prompt,
            "multi_modal_data": {_MODALITY: [Image.fromarray(picture.pixels) for picture in pictures]},
            # Without these vLLM would hash pixels, and take what an image's metadata says for its hash.
            "multi_modal_uuids": {_MODALITY: [picture.sha256 for picture in pictures]},
        }
        return await self._llm.renderer.process_for_engine_async(asked, time.time())


def _read(rendered: Mapping[str, Any]) -> tuple[list[int], list[tuple[int, int]]]:
    """The expanded ids, and offset and length of each image's place in them."""
    if rendered.get("type") != "multimodal" or set(rendered["mm_placeholders"]) != {_MODALITY}:
        raise ValueError("vLLM found no place for the images in the prompt")
    places = [(int(one.offset), int(one.length)) for one in rendered["mm_placeholders"][_MODALITY]]
    return [int(token) for token in rendered["prompt_token_ids"]], places


def _covered(rendered: Mapping[str, Any]) -> frozenset[int]:
    """The ids that the first image covers: there may be others around it, such as newlines."""
    place = rendered["mm_placeholders"][_MODALITY][0]
    inside = rendered["prompt_token_ids"][place.offset : place.offset + place.length]
    mask = [True] * len(inside) if place.is_embed is None else place.is_embed.tolist()
    return frozenset(int(token) for token, is_covered in zip(inside, mask, strict=True) if is_covered)


def _refused(problem: str, code: ErrorCode = ErrorCode.IMAGE_REFUSED) -> DataError:
    return DataError(code, "images", f"images: {problem}")
