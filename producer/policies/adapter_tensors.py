"""Turn tensors of a LoRA adapter into the files that PEFT would write, if a worker can load them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from rollstream.schemas.errors import shown
from rollstream.schemas.weights.adapter_config import MAX_ALPHA, config_problem
from rollstream.schemas.weights.adapter_expressions import expressions_problem
from rollstream.schemas.weights.adapter_tensors import (
    TensorShapes,
    name_problem,
    pairs_problem,
    placed,
    tensors_problem,
    unwrapped,
)

from .errors import AdapterError
from .peft_models import contradiction

if TYPE_CHECKING:
    import torch

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The allowed dtypes, as safetensors and as torch name them."""


class _LoraConfig(Protocol):
    """`peft.LoraConfig`; this package does not import peft."""

    def to_dict(self) -> dict[str, Any]:
        """The config's fields."""


PeftConfig: TypeAlias = "Mapping[str, Any] | _LoraConfig"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What tensors do not tell: `lora_alpha` and `use_rslora`, or PEFT's whole config (a `LoraConfig` or its dict)."""

    lora_alpha: float | None = None
    use_rslora: bool | None = None
    peft_config: PeftConfig | None = None

    @property
    def given(self) -> list[str]:
        """Names of the arguments that were given, for errors."""
        return [name for name in self.__slots__ if getattr(self, name) is not None]


NOTHING_GIVEN = Scaling()


def peft_config(name: str, tensors: Mapping[str, Any], scaling: Scaling) -> dict[str, Any]:
    """`adapter_config.json` for tensors `...lora_A.weight` (rank, in) and `...lora_B.weight` (out, rank).

    `name` is for errors. Raises `AdapterError` unless the tensors are pairs of one rank, dense, with values, of one of
    `DTYPES`, and the config is one that a worker applies as PEFT does.
    """
    shapes = _shapes(name, tensors)
    config = _written(name, shapes, scaling) if scaling.peft_config is None else _given(name, scaling)
    if problem := config_problem(config):
        raise AdapterError(name, f"peft_config: {problem}")
    problem = tensors_problem(config, shapes, DTYPES) or pairs_problem(shapes) or expressions_problem(config, shapes)
    if problem:
        raise AdapterError(name, problem)
    if scaling.given == ["lora_alpha"] and (problem := contradiction(tensors, config)):
        raise AdapterError(name, problem)
    return config


def without_wrappers(name: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors by the model's own names, without the parts that torch.compile, FSDP and others insert.

    Raises `AdapterError` if two tensors would have the same name.
    """
    found: dict[str, Any] = {}
    for tensor, value in tensors.items():
        bare = unwrapped(tensor) if isinstance(tensor, str) else tensor
        if bare in found:
            raise AdapterError(name, f"two tensors are both {shown(bare)} once the names of wrappers are left out")
        found[bare] = value
    return found


def copied(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of the tensors in this process' memory, which training cannot change. Raises `AdapterError`."""
    try:
        return {tensor: value.detach().to("cpu", copy=True).contiguous() for tensor, value in tensors.items()}
    except RuntimeError as error:  # out of memory, or an earlier fault of the accelerator
        raise AdapterError(name, f"its tensors cannot be copied: {str(error)[:200]}") from error


def serialised(name: str, tensors: dict[str, torch.Tensor]) -> bytes:
    """The bytes of a safetensors file. Raises `AdapterError` for NaN and infinities. Blocks: it reads all tensors."""
    from safetensors.torch import save  # noqa: PLC0415 - loads torch, which the producer does without until asked

    check_finite(name, tensors.items())
    return save(tensors, metadata={"format": "pt"})


def check_finite(name: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raises `AdapterError` for the first tensor with NaN or an infinity. Reads all tensors, one after the other."""
    for tensor, value in tensors:
        if not all(bound.isfinite() for bound in value.aminmax()):  # NaN is passed on; nothing is allocated
            raise AdapterError(name, f"tensor {shown(tensor)} holds NaN or infinity: its training diverged")


def _shapes(name: str, tensors: Mapping[str, Any]) -> TensorShapes:
    words = {getattr(_torch(), dtype): word for word, dtype in DTYPES.items()}
    found = {}
    for tensor, value in tensors.items():
        if problem := name_problem(tensor):
            raise AdapterError(name, problem)
        if problem := _tensor_problem(value, words):
            raise AdapterError(name, f"tensor {shown(tensor)} {problem}")
        found[tensor] = words[value.dtype], tuple(value.shape)
    return found


def _written(name: str, shapes: TensorShapes, scaling: Scaling) -> dict[str, Any]:
    """The config of an adapter for which only the scaling was given."""
    alpha, stabilised = scaling.lora_alpha, scaling.use_rslora
    if type(alpha) not in {int, float} or not 0 < (alpha or 0) <= MAX_ALPHA:
        problem = f"tensors do not hold it: pass a number above 0 and at most {MAX_ALPHA:g}, or PEFT's peft_config="
        raise AdapterError(name, f"lora_alpha {shown(alpha)}: {problem}")
    if stabilised is not None and type(stabilised) is not bool:
        raise AdapterError(name, f"use_rslora {shown(stabilised)}: pass True or False")
    ranks = [shape[0] for tensor, (_, shape) in shapes.items() if placed(tensor)[1] == "lora_A"]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": ranks[0] if ranks else 1,
        "lora_alpha": alpha,
        "use_rslora": bool(stabilised),
        "target_modules": sorted({placed(tensor)[0].rpartition(".")[2] for tensor in shapes}) or ["none"],
        "bias": "none",
    }


def _given(name: str, scaling: Scaling) -> dict[str, Any]:
    """The given PEFT config, as PEFT's save_pretrained would write it."""
    config: Any = scaling.peft_config
    if others := [given for given in scaling.given if given != "peft_config"]:
        raise AdapterError(name, f"peft_config= holds {others[0]}: leave {others[0]}= out")
    if isinstance(config, Mapping) and any(hasattr(value, "to_dict") for value in config.values()):
        names = ", ".join(shown(key) for key in config)
        raise AdapterError(name, f"peft_config= holds several configs: pass one, as model.peft_config[...] of {names}")
    if not isinstance(config, Mapping):
        to_dict = getattr(config, "to_dict", None)
        config = to_dict() if callable(to_dict) and not isinstance(config, type) else None
    if not isinstance(config, Mapping):
        kind = type(scaling.peft_config).__name__
        raise AdapterError(name, f"peft_config= is a peft.LoraConfig or a dict of its fields, not some {kind}")
    try:
        return {"peft_type": "LORA", **json.loads(json.dumps(dict(config), default=_plain, allow_nan=False))}
    except (TypeError, ValueError, RecursionError) as error:
        raise AdapterError(name, f"peft_config= cannot be written as JSON: {str(error)[:200]}") from None


def _plain(value: object) -> Any:
    """Values that PEFT's config may have and JSON does not know."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"some {type(value).__name__} is no JSON value")


def _torch() -> Any:
    import torch  # noqa: PLC0415 - the producer does without until asked

    return torch


def _tensor_problem(value: Any, words: Mapping[Any, str]) -> str | None:
    torch = _torch()
    if type(value) not in {torch.Tensor, torch.nn.Parameter}:
        return f"must be a plain torch tensor, whole and in this process, not some {type(value).__name__}"
    if value.layout != torch.strided or value.is_nested or value.is_meta:
        return "must be dense and have values: it is sparse, nested or on the meta device"
    if value.dim() != 2 or not value.numel():
        return f"must have two dimensions above 0, not {list(value.shape)}"
    if value.dtype not in words:
        return f"is {value.dtype}: cast it to {' or '.join(DTYPES.values())}"
    return None
