"""What verl's agent loop adds to rows with images: its model's inputs, and positions in more than one dimension.

Written against `AgentLoopWorker._compute_multi_modal_inputs` and `_compute_position_ids` of verl 0.9.1.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from rollstream.schemas.wire.images import ImageSpan

from .images import Conversation, check_same, processed

if TYPE_CHECKING:
    import torch

Spans: TypeAlias = Sequence[Sequence[ImageSpan]]
"""Those of each row; empty if no row has an image."""
_TYPES = "mm_token_type_ids"
"""From transformers 5.3 on; only positions are counted by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputs:
    """What the trainer's processor makes of a prompt."""

    ids: list[int]
    """Its ids with each image expanded; those of the prompt itself for text."""
    rest: dict[str, Any] = field(default_factory=dict)
    """What the model needs beside the ids; empty for text."""


def model_inputs(
    processor: Any, prompts: Sequence[Conversation], files: Sequence[Sequence[bytes]]
) -> list[ModelInputs]:
    """Those of each prompt, whose images are `files`. Raises `ImagesError`, and `PromptsError` for what the processor
    refuses."""
    return [
        _inputs(processor, row, prompt, images) if images else ModelInputs(ids=prompt.ids)
        for row, (prompt, images) in enumerate(zip(prompts, files, strict=True))
    ]


def seen_alike(inputs: Sequence[ModelInputs], sampled: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """What the model needs beside the ids of each prompt. `sampled`: what the workers saw of each.

    Raises `PromptsError` where the trainer's processor expands an image otherwise than the workers did.
    """
    for row, (one, ids) in enumerate(zip(inputs, sampled, strict=True)):
        if one.rest:
            check_same("raw_prompt", row, one.ids, ids)
    return [one.rest for one in inputs]


def _inputs(processor: Any, row: int, prompt: Conversation, files: Sequence[bytes]) -> ModelInputs:
    import torch  # noqa: PLC0415 - `import rollstream` imports no torch

    inputs = processed(processor, prompt, files, row)
    ids = inputs.pop("input_ids")[0].tolist()
    inputs.pop("attention_mask", None)
    grid = inputs.get("image_grid_thw")
    if grid is not None:
        inputs["images_seqlens"] = torch.repeat_interleave(grid[:, 1] * grid[:, 2], grid[:, 0])
    return ModelInputs(ids=ids, rest=inputs)


def position_ids(
    processor: Any, batch: Mapping[str, torch.Tensor], inputs: Sequence[dict[str, Any]], of_rows: Spans
) -> torch.Tensor:
    """(R, S), or (R, 4, S) where the model has positions of text, time, height and width; takes their help off
    `inputs`.

    `of_rows`: where each row's images lie, see `RolloutBatch.image_spans`. A placeholder elsewhere was sampled: it is
    counted as text.
    """
    import torch  # noqa: PLC0415 - as above

    for row in inputs:
        row.pop(_TYPES, None)
    if not hasattr(processor, "get_rope_index"):
        return batch["position_ids"]
    ids, masks = batch["input_ids"][:, None], batch["attention_mask"][:, None]
    rows = zip(ids, masks, inputs, of_rows or ((),) * len(ids), strict=True)
    return torch.cat([_of_row(processor, *row) for row in rows])


def _image_ids_of(processor: Any) -> list[int]:
    """The ids of the processor's placeholders; none where it does not tell."""
    told = getattr(processor, "image_token_id", None)
    return [told] if isinstance(told, int) else []


def _of_row(
    processor: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    inputs: Mapping[str, Any],
    spans: Sequence[ImageSpan],
) -> torch.Tensor:
    import torch  # noqa: PLC0415 - as above

    there, within = mask[0].bool(), torch.zeros_like(ids, dtype=torch.bool)
    first = int(there.int().argmax())
    for span in spans:
        within[0, first + span.offset : first + span.offset + span.length] = True
    placeholders = torch.isin(ids, torch.tensor(_image_ids_of(processor)))
    takes_types = _TYPES in inspect.signature(processor.get_rope_index).parameters
    more = {_TYPES: (placeholders & within).to(ids.dtype)} if takes_types else {}
    seen, _ = processor.get_rope_index(
        input_ids=ids.masked_fill(placeholders & ~within, 0),  # earlier releases count the images in them
        attention_mask=mask,
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=None,
        **more,
    )
    text = torch.ones_like(ids)
    text[0, there] = torch.arange(int(there.sum()))
    return torch.cat((text[:, None], seen.transpose(0, 1)), dim=1)
