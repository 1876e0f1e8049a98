"""A LoRA adapter in PEFT's format, from a folder or from tensors, and what would be refused later is refused here."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from producer.checkpoint_files import safetensors_problem
from producer.policy_errors import AdapterError

if TYPE_CHECKING:
    import torch

AdapterSource: TypeAlias = "Path | str | Mapping[str, torch.Tensor]"

MAX_ADAPTER_BYTES = 2**30
"""Workers have a ceiling of their own, `--max-adapter-bytes`."""
_MAX_CONFIG_BYTES = 64 * 1024
CHUNK_BYTES = 4 * 2**20
"""Of what travels at once. The names of chunks do not hold it, so that it cannot change."""

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """`config` is the JSON file, `weights` the safetensors file: its path, read chunk by chunk, or its bytes."""

    name: str
    """For errors."""
    config: bytes
    weights: Path | bytes
    num_bytes: int
    """Of the weights."""
    sha256: str
    """Of config, then weights."""
    chunk_digests: tuple[bytes, ...]
    """A chunk travels under a name that holds `sha256`: it must be what was read then."""

    @classmethod
    def of(cls, name: str, config: bytes, weights: Path | bytes, num_bytes: int) -> Self:
        """Reads all of it once. Raises `OSError`."""
        whole, digests = hashlib.sha256(config), []
        for number in range(-(-num_bytes // CHUNK_BYTES)):
            chunk = _chunk(weights, number)
            whole.update(chunk)
            digests.append(hashlib.sha256(chunk).digest())
        return cls(name, config, weights, num_bytes, whole.hexdigest(), tuple(digests))

    def chunk(self, number: int) -> bytes:
        """`CHUNK_BYTES` of the weights, the last may be shorter. Blocks on the disk. Raises `AdapterError`."""
        try:
            chunk = _chunk(self.weights, number)
        except OSError as error:
            raise AdapterError(self.name, f"cannot be read any more: {error}") from None
        if hashlib.sha256(chunk).digest() != self.chunk_digests[number]:
            raise AdapterError(self.name, "its file changed while it was read: publish it once it is written")
        return chunk


async def read_adapter(name: str, source: AdapterSource, lora_alpha: float | None) -> AdapterFiles:
    """`name` is for errors. Tensors are copied before this gives way, so that training may go on: a trainer that calls
    it from a task of its own awaits the task before it changes them.

    Raises `AdapterError`.
    """
    if isinstance(source, Mapping):
        config, tensors = _snapshot(name, source, lora_alpha)
        return await asyncio.to_thread(_of_tensors, name, config, tensors)
    if not isinstance(source, str | Path):
        raise AdapterError(name, f"give a folder or a state dict, not {type(source).__name__}")
    if lora_alpha is not None:
        raise AdapterError(name, f"a folder's {CONFIG_FILE} holds lora_alpha: leave it out")
    return await asyncio.to_thread(_of_folder, name, Path(source))


def _of_folder(name: str, folder: Path) -> AdapterFiles:
    weights = folder / WEIGHTS_FILE
    try:
        with (folder / CONFIG_FILE).open("rb") as file:
            config = file.read(_MAX_CONFIG_BYTES + 1)
        num_bytes = weights.stat().st_size
        _check(name, config, num_bytes)
        if problem := safetensors_problem(weights):
            raise AdapterError(name, f"{weights} is not whole ({problem}): publish it once it is written")
        return AdapterFiles.of(name, config, weights, num_bytes)
    except OSError as error:
        problem = f"{folder} needs {CONFIG_FILE} and {WEIGHTS_FILE}, as PEFT's save_pretrained writes them: {error}"
        raise AdapterError(name, problem) from None


def _snapshot(name: str, tensors: Mapping[str, Any], lora_alpha: float | None) -> tuple[bytes, dict[str, torch.Tensor]]:
    """`adapter_config.json` for the tensors, and a copy of them."""
    if type(lora_alpha) not in {int, float} or not math.isfinite(lora_alpha or 0) or not (lora_alpha or 0) > 0:
        raise AdapterError(name, f"lora_alpha {lora_alpha!r}: a state dict does not hold it, pass a number above 0")
    config = json.dumps(_config(name, tensors, lora_alpha), sort_keys=True).encode()
    _check(name, config, sum(value.numel() * value.element_size() for value in tensors.values()))
    return config, {tensor: value.detach().to("cpu", copy=True).contiguous() for tensor, value in tensors.items()}


def _of_tensors(name: str, config: bytes, tensors: dict[str, torch.Tensor]) -> AdapterFiles:
    from safetensors.torch import save  # noqa: PLC0415 - loads torch, which the producer does without until asked

    weights = save(tensors, metadata={"format": "pt"})
    _check(name, config, len(weights))
    return AdapterFiles.of(name, config, weights, len(weights))


def _config(name: str, tensors: Mapping[str, Any], lora_alpha: float | None) -> dict[str, Any]:
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor, value in tensors.items():
        module, _, part = str(tensor).removesuffix(".weight").rpartition(".")
        if part not in {"lora_A", "lora_B"} or not str(tensor).endswith(".weight"):
            problem = "names end in lora_A.weight or lora_B.weight, as of peft.get_peft_model_state_dict(model)"
            raise AdapterError(name, f"tensor {str(tensor)[:100]!r} is no LoRA weight: {problem}")
        if not hasattr(value, "detach") or value.dim() != 2:
            raise AdapterError(name, f"tensor {tensor!r} must be a torch tensor of two dimensions")
        modules.setdefault(module, {})[part] = tuple(value.shape)
    if lonely := [module for module, parts in modules.items() if len(parts) != 2]:
        raise AdapterError(name, f"module {lonely[0]!r} needs both lora_A and lora_B")
    ranks = {rank for parts in modules.values() for rank in (parts["lora_A"][0], parts["lora_B"][1])}
    if len(ranks) != 1:
        raise AdapterError(name, f"all tensors need one rank, (rank, in) and (out, rank); found {sorted(ranks)}")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": ranks.pop(),
        "lora_alpha": lora_alpha,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
        "bias": "none",
    }


def _check(name: str, config: bytes, num_bytes: int) -> None:
    if len(config) > _MAX_CONFIG_BYTES:
        raise AdapterError(name, f"{CONFIG_FILE} has more than {_MAX_CONFIG_BYTES} bytes")
    try:
        parsed = json.loads(config)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise AdapterError(name, f"{CONFIG_FILE} is no JSON object")
    if not 0 < num_bytes <= MAX_ADAPTER_BYTES:
        raise AdapterError(name, f"{num_bytes} bytes of weights; at most {MAX_ADAPTER_BYTES} travel")


def _chunk(weights: Path | bytes, number: int) -> bytes:
    start = number * CHUNK_BYTES
    if isinstance(weights, bytes):
        return weights[start : start + CHUNK_BYTES]
    with weights.open("rb") as file:
        file.seek(start)
        return file.read(CHUNK_BYTES)
