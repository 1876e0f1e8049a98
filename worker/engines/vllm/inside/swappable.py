"""Which models a reload renews completely; vLLM runs some that it does not.

Runs inside vLLM's workers and looks at the layers that a model really has, since names of architectures tell little. A
kind of layer that was not tried is refused: it might sample from a mixture of two versions without an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from . import packed_experts

_RENEWED = {"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"}
"""Kinds of layers for which a reload was tried and is right, on the CPU (0.32) and on a GPU (0.26)."""
_RENEWED_EXPERTS = {"UnquantizedFusedMoEMethod"}
"""The same for experts; on the CPU only those that `packed_experts` can pack again."""

_WRONG_ON_CPU = {"Cohere2ForCausalLM", "DeepseekV3ForCausalLM"}
"""What vLLM 0.32 was seen to compute unlike transformers on the CPU; see docs/families.md."""

_WRONG_WITH_ADAPTERS = {"Llama4ForCausalLM", "Llama4ForConditionalGeneration"}
"""What vLLM 0.26 was seen to compute unlike peft on a GPU, with adapters alone."""

_HEAD, _EMBEDDING = "ParallelLMHead", "VocabParallelEmbedding"

_FORMATS = {"auto", "hf", "safetensors", "fastsafetensors", "instanttensor"}
"""With any other `load_format` vLLM reads other files than those that were checked."""


def why_not(model: Any, vllm_config: Any, *, on_cpu: bool) -> str:
    """Why a reload may leave old weights in `model`; empty if it renews all."""
    return next(_doubts(model, vllm_config, on_cpu=on_cpu), "")


def wrong_on_cpu(architectures: Iterable[str]) -> str:
    """Why vLLM's CPU build must not run a model of these architectures; empty if nothing is known against it."""
    known = sorted(_WRONG_ON_CPU.intersection(architectures))
    if not known:
        return ""
    return f"vLLM's CPU build gives other log-probs than transformers for {known[0]}: run this model on a GPU"


def wrong_with_adapters(architectures: Iterable[str]) -> str:
    """Why no worker with LoRA must run a model of these architectures; empty if nothing is known against it."""
    known = sorted(_WRONG_WITH_ADAPTERS.intersection(architectures))
    if not known:
        return ""
    return f"vLLM's adapters of {known[0]} give other log-probs than peft's: start the worker without LoRA"


def tied(model: Any) -> bool | None:
    """Whether the output layer is the embedding; None if this process has no output layer.

    The config does not decide that: from 0.32 on vLLM follows the tensors of the checkpoint with which it boots.
    """
    heads = [layer for name, layer in _named(model) if name.rpartition(".")[2] == "lm_head" or _is(layer, _HEAD)]
    return any(_is_embedding(model, head) for head in heads) if heads else None


def tied_heads(model: Any) -> list[Any]:
    """The output layers that are separate from the embedding but share its weight."""
    return [layer for layer in model.modules() if _is(layer, _HEAD) and _is_embedding(model, layer)]


def _doubts(model: Any, vllm_config: Any, *, on_cpu: bool) -> Iterator[str]:
    load_format = vllm_config.load_config.load_format
    if (named := str(getattr(load_format, "value", load_format))) not in _FORMATS:
        yield f"it was loaded with load_format={named}, which reads other files than those that are checked"
    if getattr(vllm_config.parallel_config, "enable_eplb", False):
        yield "its experts are moved while it runs (enable_eplb)"
    if getattr(vllm_config.cache_config, "calculate_kv_scales", False):
        yield "the scales of its KV cache were computed from the weights that it booted with (calculate_kv_scales)"
    if _offloads(vllm_config):
        yield "a part of its weights lies in the memory of the CPU (cpu_offload_gb)"
    if getattr(model, "secondary_weights", ()) or getattr(model, "allow_patterns_overrides", None):
        yield "a part of its weights does not come from *.safetensors in its folder"
    parameters = {id(parameter) for parameter in model.parameters()}
    for name, layer in model.named_modules():
        if doubt := _doubt(layer, on_cpu=on_cpu) or _sinks_doubt(layer, parameters, on_cpu=on_cpu):
            yield f"its layer {name or type(layer).__name__} {doubt}"


def _doubt(layer: Any, *, on_cpu: bool) -> str:
    if _is(layer, "MLAAttention") or _is(layer, "MambaBase"):
        return f"({type(layer).__name__}) keeps what it computed from its weights"
    method = type(getattr(layer, "quant_method", None))
    if method is type(None) or method.__name__ in _RENEWED:
        return ""
    if any(base.__name__ == "FusedMoEMethodBase" for base in method.__mro__):
        if on_cpu and packed_experts.experts_of(layer) is None:
            return "is a mixture of experts that vLLM's CPU build keeps in a form which cannot be made again"
        if getattr(layer, "w13_bias", None) is not None:  # gpt-oss: after a reload it is a nat off, on the CPU
            return "is a mixture of experts with biases, which a reload was not seen to renew"
        if method.__name__ in _RENEWED_EXPERTS:
            return ""
    return f"is quantised or packed ({method.__name__})"


def _sinks_doubt(layer: Any, parameters: set[int], *, on_cpu: bool) -> str:
    """On attention sinks (gpt-oss): a kernel that takes another type than the model's computes with a copy of them.

    The one for CPUs makes it at the first step, so that the type tells it before.
    """
    sinks = getattr(getattr(layer, "impl", None), "sinks", None)
    if sinks is None or (id(sinks) in parameters and not (on_cpu and str(sinks.dtype) == "torch.float16")):
        return ""
    return "keeps a copy of its attention sinks in another data type: start the worker with another --dtype"


def _offloads(vllm_config: Any) -> bool:
    offload = getattr(vllm_config, "offload_config", None)
    places = (vllm_config.cache_config, offload, getattr(offload, "uva", None))
    prefetched = getattr(getattr(offload, "prefetch", None), "offload_group_size", 0)
    return bool(prefetched) or any(getattr(place, "cpu_offload_gb", 0) for place in places)


def _named(model: Any) -> Iterator[tuple[str, Any]]:
    """All layers by name, one with two names twice, and without the wrappers of LoRA."""
    for name, layer in model.named_modules(remove_duplicate=False):
        yield name, getattr(layer, "base_layer", layer)


def _is(layer: Any, kind: str) -> bool:
    return any(base.__name__ == kind for base in type(layer).__mro__)


def _is_embedding(model: Any, head: Any) -> bool:
    embeddings = [layer for layer in model.modules() if _is(layer, _EMBEDDING) and not _is(layer, _HEAD)]
    weight = getattr(head, "weight", None)
    return weight is not None and any(head is layer or weight is layer.weight for layer in embeddings)
