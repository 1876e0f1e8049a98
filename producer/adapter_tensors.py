"""Tensors of a LoRA adapter become what PEFT writes to files; only those that a worker can load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from producer.policy_errors import AdapterError
from schemas.errors import shown

if TYPE_CHECKING:
    import torch

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' words and torch's for what may travel."""
CASTS = " or ".join(DTYPES.values())
_MAX_ALPHA = 1e9


def peft_config(name: str, tensors: Mapping[str, Any], lora_alpha: float | None) -> dict[str, Any]:
    """`adapter_config.json` for tensors `...lora_A.weight` (rank, in) and `...lora_B.weight` (out, rank).

    `name` is for errors. Raises `AdapterError` for anything but pairs of such tensors, all of one rank, dense, with
    values, of one of `DTYPES`.
    """
    if type(lora_alpha) not in {int, float} or not 0 < (lora_alpha or 0) <= _MAX_ALPHA:
        problem = f"a state dict does not hold it, pass a number above 0 and at most {_MAX_ALPHA:g}"
        raise AdapterError(name, f"lora_alpha {shown(lora_alpha)}: {problem}")
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor, value in tensors.items():
        module, part = _place(name, tensor)
        if wrong := _tensor_problem(value):
            raise AdapterError(name, f"tensor {shown(tensor)} {wrong}")
        modules.setdefault(module, {})[part] = tuple(value.shape)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": _rank(name, modules),
        "lora_alpha": lora_alpha,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
        "bias": "none",
    }


def copied(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In this process' memory, where nobody changes them. Raises `AdapterError`."""
    try:
        return {tensor: value.detach().to("cpu", copy=True).contiguous() for tensor, value in tensors.items()}
    except RuntimeError as error:  # out of memory, or a fault of the accelerator that came before
        raise AdapterError(name, f"its tensors cannot be copied: {str(error)[:200]}") from error


def serialised(name: str, tensors: dict[str, torch.Tensor]) -> bytes:
    """The safetensors file. Raises `AdapterError` for NaN and infinities. Blocks: it reads them all."""
    from safetensors.torch import save  # noqa: PLC0415 - loads torch, which the producer does without until asked

    for tensor, value in tensors.items():
        if not all(bound.isfinite() for bound in value.aminmax()):  # NaN is passed on; nothing is allocated
            raise AdapterError(name, f"tensor {shown(tensor)} holds NaN or infinity: its training diverged")
    return save(tensors, metadata={"format": "pt"})


def _place(name: str, tensor: object) -> tuple[str, str]:
    """The module, and lora_A or lora_B."""
    text = tensor if isinstance(tensor, str) else ""
    module, _, part = text.removesuffix(".weight").rpartition(".")
    named = all(module.split(".")) and text.isprintable()
    if not (named and text.endswith(".weight") and part in {"lora_A", "lora_B"}):
        problem = "names are MODULE.lora_A.weight or MODULE.lora_B.weight, as peft.get_peft_model_state_dict(model) has"
        raise AdapterError(name, f"tensor {shown(tensor)} is no LoRA weight: {problem}")
    return module, part


def _tensor_problem(value: Any) -> str | None:
    import torch  # noqa: PLC0415 - as above

    if type(value) not in {torch.Tensor, torch.nn.Parameter}:
        return f"must be a plain torch tensor, whole and in this process, not some {type(value).__name__}"
    if value.layout != torch.strided or value.is_nested or value.is_meta:
        return "must be dense and have values: it is sparse, nested or on the meta device"
    if value.dim() != 2 or not value.numel():
        return f"must have two dimensions above 0, not {list(value.shape)}"
    if value.dtype not in {getattr(torch, dtype) for dtype in DTYPES.values()}:
        return f"is {value.dtype}: cast it to {CASTS}"
    return None


def _rank(name: str, modules: Mapping[str, Mapping[str, tuple[int, ...]]]) -> int:
    if lonely := [module for module, parts in modules.items() if len(parts) != 2]:
        raise AdapterError(name, f"module {shown(lonely[0])} needs both lora_A and lora_B")
    ranks = {rank for parts in modules.values() for rank in (parts["lora_A"][0], parts["lora_B"][1])}
    if len(ranks) != 1:
        found = sorted(ranks)[:5]
        raise AdapterError(name, f"all tensors need one rank, (rank, in) and (out, rank); found {found}")
    return ranks.pop()
