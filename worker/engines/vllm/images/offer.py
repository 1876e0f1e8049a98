"""Whether an engine's prompts may have images, by what vLLM made of its model and settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def why_none(llm: Any, *, on_cpu: bool) -> str:
    """The first reason why no prompt of this `AsyncLLM` may have images; '' if prompts may."""
    return next(_reasons(llm, on_cpu=on_cpu), "")


def _reasons(llm: Any, *, on_cpu: bool) -> Iterator[str]:
    model = llm.vllm_config.model_config
    if getattr(model, "multimodal_config", None) is None:
        yield "the model takes text alone"
        return
    if model.multimodal_config.get_limit_per_prompt("image") == 0:
        yield "the worker was started with --max-images 0"
    if on_cpu and getattr(model, "is_mm_prefix_lm", False):
        yield "its images look at each other's parts both ways, which vLLM's attention on the CPU leaves out"
    if llm.tokenizer is None:
        yield "the model's processing of images needs a tokenizer: start the worker with --tokenizer"
    # The renderer has a processor where vLLM feeds the model more than text. What its config says of that has another
    # name in 0.26.
    if model.is_encoder_decoder or llm.renderer.mm_processor is None:
        yield "vLLM gives this model's prompts no images"
    elif "image" not in llm.renderer.mm_processor.info.supported_mm_limits:
        yield "the model takes no images"
