"""Check that every tensor of a LoRA adapter is half of a pair on one module and has PEFT's name for it.

vLLM drops tensors with other names without an error, and would serve the base model under the adapter's name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..errors import shown
from .adapter_config import is_target

PREFIX = "base_model.model."
"""PEFT's prefix of a module's path."""
MAX_TENSORS = 1_000_000

TensorShapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensor name to dtype, as safetensors names it, and shape."""

_EXAMPLE = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"
_TAKE = "take the tensors with peft.get_peft_model_state_dict(model)"

# Names that wrappers insert into the path of each tensor; without them the path is the model's own.
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_fpw_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning Fabric",
    "module": "DistributedDataParallel or DeepSpeed",
}

# Other tensors that PEFT writes, and why no worker takes them.
_FOREIGN = {
    "lora_embedding_A": "adapters on embeddings are not supported: train linear layers, or publish a checkpoint",
    "lora_embedding_B": "adapters on embeddings are not supported: train linear layers, or publish a checkpoint",
    "lora_magnitude_vector": "DoRA is not supported: train without use_dora, or publish the merged model",
    "base_layer": "a weight of the base model came along: save it with save_embedding_layers=False",
    "modules_to_save": "whole modules do not travel with an adapter: train without modules_to_save",
}

# Modules that vLLM may compute without its LoRA layers, so that an adapter on them might not be applied.
_PAST_LORA = {
    "experts": "experts of a mixture",
    "gate": "the router of a mixture",
    "router": "the router of a mixture",
    "shared_expert_gate": "the router of a mixture",
    "kv_b_proj": "what attention with a compressed cache multiplies in advance",
}


def unwrapped(name: str) -> str:
    """The name without wrappers' names. `module` counts as one only before a path; elsewhere it may be the model's."""
    before, prefix, path = name.rpartition(PREFIX)
    kept = [part for part in before.split(".") if part and part not in _WRAPPERS]
    inner = [part for part in path.split(".") if part == "module" or part not in _WRAPPERS]
    while inner[:1] == ["module"]:
        inner = inner[1:]
    return ".".join(kept) + ("." if kept else "") + prefix + ".".join(inner)


def tensors_problem(config: Mapping[str, Any], tensors: TensorShapes, dtypes: Collection[str]) -> str | None:
    """Why these are not the tensors of an adapter with this (valid) config; None if they are."""
    if not 0 < len(tensors) <= MAX_TENSORS:
        return f"it has {len(tensors)} tensors" if tensors else "it has no tensors"
    for name, (dtype, shape) in tensors.items():
        problem = name_problem(name) or _shape_problem(name, shape, config["r"])
        if problem is None and dtype not in dtypes:
            problem = f"tensor {shown(name)} is {dtype}, not {' or '.join(dtypes)}: cast it before saving"
        if problem is not None:
            return problem
        module, _ = placed(name)
        if not is_target(config, module):
            return (
                f"module {shown(module)} has tensors, but target_modules, exclude_modules or layers_to_transform leave "
                "it out: PEFT would not apply them; config and tensors belong to different adapters"
            )
    return None


def pairs_problem(names: Iterable[str]) -> str | None:
    """Which module has only one of lora_A and lora_B; None if none. The names must have no problem."""
    modules: dict[str, set[str]] = {}
    for module, part in map(placed, names):
        modules.setdefault(module, set()).add(part)
    lonely = [module for module, parts in modules.items() if len(parts) != 2]
    if not lonely:
        return None
    (part,) = modules[lonely[0]]
    count = f"; {len(lonely)} of its {len(modules)} modules lack one" if len(lonely) > 1 else ""
    return f"module {shown(lonely[0])} needs both lora_A and lora_B, and has {part} alone{count}"


def placed(name: str) -> tuple[str, str]:
    """The module's path in the model, and lora_A or lora_B; the name must have no problem."""
    module, part, _ = name.removeprefix(PREFIX).rsplit(".", 2)
    return module, part


def name_problem(name: object) -> str | None:
    """Why a tensor of this name would not reach the module on which it was trained; None if it would."""
    if not isinstance(name, str) or not name.isprintable() or not all(parts := name.split(".")):
        return f"tensor {shown(name)} is no LoRA weight: names are as {_EXAMPLE}"
    path = parts[:-2] if parts[-1] == "weight" and parts[-2:-1] in (["lora_A"], ["lora_B"]) else None
    problem = _wrapped(name) if path else _foreign(parts)
    if problem is None and path is not None and not name.startswith(PREFIX):
        problem = f"does not begin with {PREFIX!r}: {_TAKE}, or rename it to {shown(PREFIX + name)}"
    if problem is None and path is not None:
        problem = next((_past(part) for part in path[2:] if part in _PAST_LORA), None) or _bare(path[2:])
    return None if problem is None else f"tensor {shown(name)} {problem}"


def _bare(path: list[str]) -> str | None:
    return None if path else f"names no module: names are as {_EXAMPLE}"


def _past(part: str) -> str:
    return f"is on {part!r} ({_PAST_LORA[part]}), where adapters are not supported: leave it out of target_modules"


def _foreign(parts: list[str]) -> str:
    if parts[-1] == "weight" and len(parts) > 3 and parts[-3] in ("lora_A", "lora_B"):
        return f"holds the adapter's name, {shown(parts[-2])}: {_TAKE}"
    found = next((part for part in parts if part in _FOREIGN), None)
    if found is None and parts[-1] == "bias" and parts[-2:-1] == ["lora_B"]:
        return "is of lora_bias, which is not supported: train without it"
    return f"is no LoRA weight: {_FOREIGN[found] if found else f'names are as {_EXAMPLE}'}"


def _wrapped(name: str) -> str | None:
    bare = unwrapped(name)
    if bare != name:
        left_out = set(name.split(".")) - set(bare.split("."))
        which = next((part for part in _WRAPPERS if part in left_out), "module")
        return (
            f"holds the name of a wrapper, {which!r} ({_WRAPPERS[which]}), which the workers' model has not: save "
            f"the adapter of the unwrapped model, or rename it to {shown(bare)}"
        )
    if name.count(PREFIX) > 1 or ".base_layer." in name:
        return f"is of an adapter around another: {_TAKE} of a model that was wrapped once, or merge the inner one"
    return None


def _shape_problem(name: str, shape: tuple[int, ...], rank: int) -> str | None:
    side = 0 if name.endswith(".lora_A.weight") else 1
    if len(shape) != 2 or not all(shape) or shape[side] != rank:
        layout = "(rank, in)" if side == 0 else "(out, rank)"
        return f"tensor {shown(name)} has shape {list(shape)}, which is not of rank {rank}: {layout}"
    return None
