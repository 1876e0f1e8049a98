"""Experts of a mixture on vLLM's CPU build, which multiplies with packed and padded copies of their weights.

vLLM packs them at the start alone: a reload copies the new weights over the packed ones as they are, which samples from
neither, or fails where the padding gave a tensor another shape. Runs inside vLLM's workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

NO_ADAPTERS = "vLLM's CPU build runs no mixture of experts with LoRA: start the worker without LoRA"
_PACKED = "CPUUnquantizedExperts"
"""vLLM's class of such experts, from 0.28 on; each kind of processor has one below it."""


def experts_of(layer: Any) -> Any:
    """The packed experts of a layer; None if it has none that can be packed again."""
    kernel = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
    experts = getattr(kernel, "fused_experts", None)
    known = any(base.__name__ == _PACKED for base in type(experts).__mro__)
    return experts if known and not getattr(experts, "_use_zentorch", True) else None


def has_adapters(model: Any) -> bool:
    """Whether experts of `model` are wrapped for LoRA, which the CPU build cannot run: its kernel is one of GPUs."""
    return any(
        "MoE" in type(layer).__name__ and any(base.__name__ == "BaseLayerWithLoRA" for base in type(layer).__mro__)
        for layer in model.modules()
    )


def unpad(model: Any) -> None:
    """Give padded weights the shapes of a checkpoint, so that a reload can copy into them. Call it before a reload."""
    import torch  # noqa: PLC0415 - vLLM is only there inside its processes, torch with it
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info  # noqa: PLC0415 - the same

    with torch.inference_mode():
        for layer, _ in _packed(model):
            for name, saved in get_layerwise_info(layer).restore_metadata[0].items():
                weight = getattr(layer, name)
                if weight.shape != saved.shape:
                    weight.data = torch.empty(saved.shape, dtype=saved.dtype)


def pack(model: Any, vllm_config: Any) -> None:
    """Pack the weights that a reload has just copied. Call it after each reload that did not fail."""
    import torch  # noqa: PLC0415 - vLLM is only there inside its processes, torch with it
    from vllm.config import set_current_vllm_config  # noqa: PLC0415 - the same

    with torch.inference_mode(), set_current_vllm_config(vllm_config):
        for layer, experts in _packed(model):
            experts.process_weights_after_loading(layer)


def _packed(model: Any) -> Iterator[tuple[Any, Any]]:
    found = ((layer, experts_of(layer)) for layer in model.modules())
    return ((layer, experts) for layer, experts in found if experts is not None)
