"""Whether an engine's prompts may have images, by the parts that every vLLM has which a worker runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.worker.engines.vllm.images.offer import why_none


def test_prompts_of_a_model_with_vision_may_have_images() -> None:
    assert why_none(loaded(), on_cpu=False) == ""


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"takes": None}, "the model takes text alone"),
        ({"limit": 0}, "the worker was started with --max-images 0"),
        ({"is_mm_prefix_lm": True}, "vLLM's attention on the CPU leaves out"),
        ({"tokenizer": None}, "start the worker with --tokenizer"),
        ({"is_encoder_decoder": True}, "vLLM gives this model's prompts no images"),
        ({"takes": ()}, "vLLM gives this model's prompts no images"),
        ({"takes": ("audio",)}, "the model takes no images"),
    ],
)
def test_what_keeps_images_away_is_named(parts: dict[str, Any], why: str) -> None:
    assert why in why_none(loaded(**parts), on_cpu=True)


def test_on_a_gpu_images_may_look_at_each_other_both_ways() -> None:
    assert why_none(loaded(is_mm_prefix_lm=True), on_cpu=False) == ""


def loaded(
    *,
    takes: tuple[str, ...] | None = ("image",),
    limit: int = 4,
    tokenizer: object = "a tokenizer",
    is_mm_prefix_lm: bool = False,
    is_encoder_decoder: bool = False,
) -> Any:
    """An `AsyncLLM` in the words of vLLM 0.26 that later ones kept. `takes`: None for a model of text, () for one that
    vLLM feeds text alone.
    """
    limits = None if takes is None else SimpleNamespace(get_limit_per_prompt=lambda _: limit)
    processor = SimpleNamespace(info=SimpleNamespace(supported_mm_limits=dict.fromkeys(takes))) if takes else None
    model = SimpleNamespace(
        multimodal_config=limits, is_mm_prefix_lm=is_mm_prefix_lm, is_encoder_decoder=is_encoder_decoder
    )
    return SimpleNamespace(
        vllm_config=SimpleNamespace(model_config=model),
        tokenizer=tokenizer,
        renderer=SimpleNamespace(mm_processor=processor),
    )
