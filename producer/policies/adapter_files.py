"""A LoRA adapter in PEFT's format, from a folder or from tensors; what workers would refuse is refused here first."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

from rollstream.schemas.weights.adapter_config import CONFIG_FILE, WEIGHTS_FILE, config_problem
from rollstream.schemas.weights.adapter_expressions import expressions_problem
from rollstream.schemas.weights.adapter_tensors import TensorShapes, pairs_problem, tensors_problem
from rollstream.schemas.weights.folders import download_hint
from rollstream.schemas.weights.regular_files import open_regular

from .adapter_tensors import (
    DTYPES,
    NOTHING_GIVEN,
    Scaling,
    check_finite,
    copied,
    peft_config,
    serialised,
    without_wrappers,
)
from .checkpoint_files import safetensors_problem
from .errors import AdapterError

if TYPE_CHECKING:
    import torch

AdapterSource: TypeAlias = "Path | str | Mapping[str, torch.Tensor]"

MAX_ADAPTER_BYTES = 2**30
"""Workers have a limit of their own, `--max-adapter-bytes`."""
_MAX_CONFIG_BYTES = 64 * 1024
CHUNK_BYTES = 4 * 2**20 - 1024
"""Size of one chunk. It can never change, since the keys of chunks do not contain it. A little under 4 MiB, so that
with Redis' own bytes a chunk fits a block of 4 MiB; the allocator's next size is 5 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """`config` is the JSON file; `weights` the safetensors file, as a path that is read by chunks, or as bytes."""

    name: str
    """The adapter's name in errors."""
    config: bytes
    weights: Path | bytes
    num_bytes: int
    """Size of the weights."""
    sha256: str
    """Digest of the config and then the weights."""
    chunk_digests: tuple[bytes, ...]
    """Digests of the chunks. A chunk's key contains `sha256`, so its bytes must be the ones that were read for that."""
    incomplete: str = ""
    """Which half of a pair of tensors is missing, so that every worker will refuse the adapter; empty for none."""

    @classmethod
    def of(cls, name: str, config: bytes, weights: Path | bytes, num_bytes: int, incomplete: str = "") -> Self:
        """Read the weights once, for the digests. Raises `OSError`."""
        whole, digests = hashlib.sha256(config), []
        for number in range(-(-num_bytes // CHUNK_BYTES)):
            chunk = _chunk(weights, number)
            whole.update(chunk)
            digests.append(hashlib.sha256(chunk).digest())
        return cls(
            name=name,
            config=config,
            weights=weights,
            num_bytes=num_bytes,
            sha256=whole.hexdigest(),
            chunk_digests=tuple(digests),
            incomplete=incomplete,
        )

    def chunk(self, number: int) -> bytes:
        """One chunk of the weights; the last may be shorter. Blocks on the disk. Raises `AdapterError`."""
        try:
            chunk = _chunk(self.weights, number)
        except OSError as error:
            raise AdapterError(self.name, f"cannot be read any more: {error}") from None
        if hashlib.sha256(chunk).digest() != self.chunk_digests[number]:
            raise AdapterError(self.name, "its file changed while it was read: publish it once it is written")
        return chunk


async def read_adapter(
    name: str, source: AdapterSource, scaling: Scaling = NOTHING_GIVEN, padding: bytes = b""
) -> AdapterFiles:
    """Read and check an adapter. `name` is for errors; `padding` (white space) is added to the config.

    Tensors are copied before the first `await`, so that the caller may go on training once this has begun. Raises
    `AdapterError`.
    """
    if isinstance(source, Mapping):
        source = without_wrappers(name, source)
        config = json.dumps(peft_config(name, source, scaling), sort_keys=True).encode() + padding
        _check(name, config, sum(value.numel() * value.element_size() for value in source.values()))
        return await asyncio.to_thread(_of_tensors, name, config, copied(name, source))
    if not isinstance(source, str | Path):
        raise AdapterError(name, f"give a folder or a state dict, not {type(source).__name__}")
    if scaling.given:
        raise AdapterError(name, f"{scaling.given[0]}=: a folder's {CONFIG_FILE} says it, leave it out")
    return await asyncio.to_thread(_of_folder, name, Path(source), padding)


def _of_folder(name: str, folder: Path, padding: bytes) -> AdapterFiles:
    try:
        config, weights = _file(folder / CONFIG_FILE), _file(folder / WEIGHTS_FILE)
        with open_regular(config) as file:
            content = file.read(_MAX_CONFIG_BYTES + 1) + padding
        num_bytes = weights.stat().st_size
        _check(name, content, num_bytes)
        if problem := safetensors_problem(weights, DTYPES):
            raise AdapterError(name, f"{weights} is not whole, or not to be loaded ({problem}): write it again first")
        return _of_file(name, content, weights)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        problem = f"{folder} needs {CONFIG_FILE} and {WEIGHTS_FILE}, as PEFT's save_pretrained writes them: {error}"
        if not os.path.exists(folder):  # noqa: PTH110 - Path.exists raises for a name that is too long
            problem += download_hint(folder) if "/" in str(folder) else ""  # on a hub each adapter has an owner
        raise AdapterError(name, problem) from None


def _of_file(name: str, config: bytes, path: Path) -> AdapterFiles:
    """Raises `AdapterError` for what every worker would refuse; the rest depends on the worker's model."""
    from safetensors import safe_open  # noqa: PLC0415 - loads torch, which the producer does without until asked

    with safe_open(path, framework="pt") as file:
        bare = without_wrappers(name, {tensor: tensor for tensor in file.keys()})  # noqa: SIM118 - no mapping
        slices = {tensor: file.get_slice(stored) for tensor, stored in bare.items()}
        shapes: TensorShapes = {tensor: (one.get_dtype(), tuple(one.get_shape())) for tensor, one in slices.items()}
        fields = json.loads(config)
        if problem := tensors_problem(fields, shapes, DTYPES) or expressions_problem(fields, shapes):
            raise AdapterError(name, f"{WEIGHTS_FILE}: {problem}")
        if any(tensor != stored for tensor, stored in bare.items()):
            return _of_tensors(name, config, {tensor: file.get_tensor(stored) for tensor, stored in bare.items()})
        check_finite(name, ((tensor, file.get_tensor(tensor)) for tensor in shapes))
    incomplete = pairs_problem(shapes) or ""
    return AdapterFiles.of(name, config, path, path.stat().st_size, incomplete)


def _of_tensors(name: str, config: bytes, tensors: dict[str, torch.Tensor]) -> AdapterFiles:
    weights = serialised(name, tensors)
    _check(name, config, len(weights))
    return AdapterFiles.of(name, config, weights, len(weights), pairs_problem(tensors) or "")


def _file(path: Path) -> Path:
    if not path.is_file():  # opening a FIFO would block this thread for ever
        raise OSError(f"{path.name} is not there, or no file")
    return path


def _check(name: str, config: bytes, num_bytes: int) -> None:
    if len(config) > _MAX_CONFIG_BYTES:
        raise AdapterError(name, f"{CONFIG_FILE} has more than {_MAX_CONFIG_BYTES} bytes")
    try:
        parsed = json.loads(config)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise AdapterError(name, f"{CONFIG_FILE} is no JSON object")
    if problem := config_problem(parsed):
        raise AdapterError(name, f"{CONFIG_FILE}: {problem}")
    if not 0 < num_bytes <= MAX_ADAPTER_BYTES:
        raise AdapterError(name, f"{num_bytes} bytes of weights; at most {MAX_ADAPTER_BYTES} travel")


def _chunk(weights: Path | bytes, number: int) -> bytes:
    start = number * CHUNK_BYTES
    if isinstance(weights, bytes):
        return weights[start : start + CHUNK_BYTES]
    with open_regular(weights) as file:
        file.seek(start)
        return file.read(CHUNK_BYTES)
