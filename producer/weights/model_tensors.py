"""Copies of a running model's tensors, cast if asked for. What would not be the model's weights is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollstream.schemas.errors import shown
from rollstream.schemas.weights.checkpoint_rules import is_computed, is_embedding, is_head
from rollstream.schemas.weights.finite import has_not_finite

from ..errors import ArgumentError
from ..policies.errors import PolicyVersionError
from .tensor_names import plain_names
from .tensor_values import TensorValues

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
    "bool": "BOOL",
}  # fmt: skip
"""Safetensors' words by torch's."""
_CASTS = ("float32", "bfloat16", "float16")
_CAST_FROM = {"float64", *_CASTS}

Tensors = dict[str, TensorValues]


def cast_dtype(dtype: object) -> str | None:
    """The name of the dtype to cast to, from its name or torch's own object. Raises `ArgumentError`."""
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in _CASTS:
        raise ArgumentError("dtype", str(dtype), f"give {', '.join(_CASTS)}, or None to send tensors as they are")
    return name


def state_of(version: int, state_dict: object, model: object) -> Mapping[str, Any]:
    """The tensors by name, of the one that was given. Raises `PolicyVersionError`."""
    if model is not None:
        state = getattr(model, "state_dict", None)
        if not callable(state):
            raise PolicyVersionError(version, f"model= is a torch module, not some {type(model).__name__}")
        state_dict = state()
    if not isinstance(state_dict, Mapping):
        problem = f"state_dict= is what model.state_dict() returns, not some {type(state_dict).__name__}"
        raise PolicyVersionError(version, problem)
    return state_dict


def copied(version: int, tensors: Mapping[str, Any], dtype: str | None) -> Tensors:
    """Copies in this process' memory. It reads every byte and awaits nothing, so that training can go on after it.

    Raises `PolicyVersionError`.
    """
    return {name: _copy(version, name, value, dtype) for name, value in tensors.items()}


def published(version: int, state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors themselves, by the names that workers know.

    Buffers that every loader computes itself are left out, and so is an output layer that is the embedding's own
    memory, as `save_pretrained` does. Raises `PolicyVersionError`.
    """
    named = plain_names(version, state)
    whole = {name: _whole(version, name, value) for name, value in named.items()}
    sent = {name: value for name, value in whole.items() if not is_computed(name, tuple(value.shape))}
    embeddings = {_memory(value) for name, value in sent.items() if is_embedding(name)}
    tied = [name for name, value in sent.items() if is_head(name) and _memory(value) in embeddings]
    for name in tied:
        del sent[name]
    if not sent:
        raise PolicyVersionError(version, "it has no tensor: give model.state_dict() of the whole model")
    return sent


def _whole(version: int, name: str, value: Any) -> Any:
    """The plain tensor, with all of its values. Gathering from other processes is left to all of them at once."""
    import torch  # noqa: PLC0415 - a trainer that publishes tensors has it loaded

    def refused(problem: str) -> PolicyVersionError:
        return PolicyVersionError(version, f"tensor {shown(name)} {problem}")

    if hasattr(value, "full_tensor") and hasattr(value, "device_mesh"):
        if value.device_mesh.size() > 1:
            raise refused(
                "is a DTensor, spread over several processes: call torch.distributed.checkpoint.state_dict."
                "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)) in each "
                "of them, and publish what the first gets"
            )
        value = value.full_tensor()
    if not isinstance(value, torch.Tensor):
        raise refused(f"is some {type(value).__name__}: give plain tensors, whole and in this process")
    if type(value) not in {torch.Tensor, torch.nn.Parameter, torch.nn.Buffer}:
        raise refused(f"is some {type(value).__name__}: give plain tensors, gathered and not quantised")
    if value.is_meta or value.layout != torch.strided or value.is_nested or value.is_quantized:
        raise refused("must be dense and have values: it is on the meta device, sparse, nested or quantised")
    if str(value.dtype).removeprefix("torch.") not in _DTYPES:
        raise refused(f"is {value.dtype}: cast it to one of {', '.join(_DTYPES)}")
    return value


def _memory(value: Any) -> tuple[Any, ...]:
    return value.data_ptr(), str(value.device), tuple(value.shape), value.stride(), value.dtype


def _copy(version: int, name: str, value: Any, dtype: str | None) -> TensorValues:
    import torch  # noqa: PLC0415 - as above

    own = str(value.dtype).removeprefix("torch.")
    target = dtype if dtype is not None and own in _CAST_FROM else own
    try:
        copy = torch.empty(value.shape, dtype=getattr(torch, target), device="cpu")
        copy.copy_(value.detach())
    except RuntimeError as error:  # out of memory, or an earlier fault of the accelerator
        raise PolicyVersionError(version, f"tensor {shown(name)} cannot be copied: {str(error)[:200]}") from error
    values = copy.reshape(-1).view(torch.uint8).numpy()
    word = _DTYPES[target]
    if has_not_finite(values.data, word):
        cast = f" once it is cast to {target}" if target != own else ""
        problem = f"tensor {name} has a weight that is NaN or infinite{cast}: its training diverged, or needs float32"
        raise PolicyVersionError(version, problem)
    return TensorValues(word, tuple(value.shape), values)
