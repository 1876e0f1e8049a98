"""A checkpoint is the one announced, and fits the model that the worker booted with, before the engine is touched.

vLLM checks little of this: a missing tensor leaves a mixture of two models behind, and a wrong shape half-replaced
layers that end the engine at its next step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from schemas.content_digest import CHECKPOINT_FILES, content_digest
from worker.errors import CheckpointRefusedError
from worker.safetensors_header import MAX_HEADER_BYTES, HeaderError, TensorHeader, read_header

CONFIG, INDEX = "config.json", "model.safetensors.index.json"

_PIECE = 2**20

# What a forward pass follows from: vLLM keeps what it booted with, whatever config.json says after that.
_ARCHITECTURE = (
    "architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps",
    "rope_theta", "rope_scaling", "rope_parameters", "sliding_window", "use_sliding_window", "layer_types",
    "num_experts", "num_local_experts", "num_experts_per_tok", "tie_word_embeddings", "quantization_config",
)  # fmt: skip
_HEAD = "lm_head.weight"


Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, size, modification time and inode of each file."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a checkpoint holds: its config, and tensor name to (header, file)."""

    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[TensorHeader, str]]

    @property
    def tied(self) -> bool:
        """The output layer is the embedding: `lm_head.weight` may be there or not."""
        return bool(self.config.get("tie_word_embeddings", _HEAD not in self.tensors))


def digest(folder: Path, given_up: Event | None = None) -> str:
    """The sha256 (hex) that names the content of a checkpoint folder, see `schemas.content_digest`.

    Reads every byte, a piece at a time: blocks for seconds, so call it in a thread, which nothing but `given_up` ends
    early. Raises `CheckpointRefusedError`.
    """
    _check_folder(folder)
    paths = [_inside(folder, name) for name in _names(folder)]
    try:
        return content_digest((path.name, path.stat().st_size, _pieces(path, given_up)) for path in paths)
    except OSError as error:
        raise CheckpointRefusedError(folder, "files", f"cannot be read ({type(error).__name__})") from None


def stamp(folder: Path) -> Stamp:
    """Changes when the files of a checkpoint do, without reading them; files that are gone are left out."""
    found = []
    for name in _names(folder):
        with suppress(OSError):
            status = (folder / name).stat()
            found.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)


def check(folder: Path, like: Path | None) -> None:
    """Whether an engine that booted with `like` can load `folder`; None asks only whether it is whole.

    Reads headers alone, but blocks on the disk: call it in a thread. Raises `CheckpointRefusedError`.
    """
    found = read_layout(folder, confined=True)
    if like is not None:
        booted = read_layout(like, confined=False)
        _refuse_where(folder, config_difference(found.config, booted.config, tied=booted.tied))
        _refuse_where(folder, tensor_difference(found, booted))


def config_difference(found: Mapping[str, Any], booted: Mapping[str, Any], *, tied: bool) -> tuple[str, str] | None:
    """(where, problem) of the first architecture field that both configs name and that differs."""
    booted = {"tie_word_embeddings": tied, **booted}
    for field in _ARCHITECTURE:
        if field in found and field in booted and found[field] != booted[field]:
            problem = f"{field} is {found[field]!r}, the worker's model has {booted[field]!r}: publish the same model"
            return CONFIG, problem
    return None


def tensor_difference(found: Layout, booted: Layout) -> tuple[str, str] | None:
    """(where, problem) of the first tensor that is missing, too much, or of another shape or dtype."""
    optional = {_HEAD} if booted.tied else set()
    missing = sorted(booted.tensors.keys() - found.tensors.keys() - optional)
    if missing:
        problem = f"tensor {missing[0]} is missing{_more(missing)}: save the whole model, not a part or an adapter"
        return "tensors", problem
    extra = sorted(found.tensors.keys() - booted.tensors.keys() - optional)
    if extra:
        problem = f"the worker's model has no tensor {extra[0]}{_more(extra)}: publish the model that it booted with"
        return found.tensors[extra[0]][1], problem
    for name, (tensor, file) in sorted(found.tensors.items()):
        wanted = booted.tensors[name][0] if name in booted.tensors else tensor
        if tensor.shape != wanted.shape:
            problem = f"tensor {name} has shape {list(tensor.shape)}, the worker's model has {list(wanted.shape)}"
            return file, f"{problem}: publish the model that it booted with"
        if tensor.dtype != wanted.dtype:
            return (
                file,
                f"tensor {name} is {tensor.dtype}, the worker's model has {wanted.dtype}: cast it before saving",
            )
    return None


def read_layout(folder: Path, *, confined: bool) -> Layout:
    """Config and tensor headers of a folder in Hugging Face's format; `confined` refuses links that lead out of it.

    Raises `CheckpointRefusedError` for what is missing, truncated or contradicts its index.
    """
    _check_folder(folder)
    config = _read_json(folder, CONFIG, confined=confined)
    mapped = _read_index(folder, confined=confined)
    names = sorted({path.name for path in folder.glob("*.safetensors")} if mapped is None else set(mapped.values()))
    if not names:
        raise CheckpointRefusedError(folder, "files", "no *.safetensors file: write it with save_pretrained")
    tensors: dict[str, tuple[TensorHeader, str]] = {}
    for name in names:
        for tensor, header in _read_tensors(folder, name, confined=confined).items():
            if tensor in tensors:
                raise CheckpointRefusedError(folder, name, f"tensor {tensor} is also in {tensors[tensor][1]}")
            tensors[tensor] = header, name
    _check_index(folder, mapped or {}, tensors)
    return Layout(config, tensors)


def _names(folder: Path) -> list[str]:
    return sorted({path.name for pattern in CHECKPOINT_FILES for path in folder.glob(pattern)})


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointRefusedError(folder, "folder", "no folder of that name: publish it before it is announced")


def _read_tensors(folder: Path, name: str, *, confined: bool) -> dict[str, TensorHeader]:
    try:
        return read_header(_inside(folder, name) if confined else folder / name)
    except HeaderError as error:
        problem = f"{str(error).removeprefix(name).lstrip(': ')}: announce a checkpoint only once it is written"
        raise CheckpointRefusedError(folder, name, problem) from None


def _read_index(folder: Path, *, confined: bool) -> dict[str, str] | None:
    """Tensor name to file name; None for a checkpoint without an index."""
    if not (folder / INDEX).exists() and not (folder / INDEX).is_symlink():
        return None
    mapped = _read_json(folder, INDEX, confined=confined).get("weight_map")
    if not isinstance(mapped, dict) or not all(_plain(name) for name in mapped.values()):
        raise CheckpointRefusedError(folder, INDEX, "weight_map must map tensors to names of files in the folder")
    return mapped


def _check_index(folder: Path, mapped: Mapping[str, str], tensors: Mapping[str, tuple[TensorHeader, str]]) -> None:
    for tensor, name in mapped.items():
        if tensor not in tensors or tensors[tensor][1] != name:
            raise CheckpointRefusedError(folder, INDEX, f"tensor {tensor} is not in {name}: write the index again")


def _read_json(folder: Path, name: str, *, confined: bool) -> dict[str, Any]:
    path = _inside(folder, name) if confined else folder / name
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_HEADER_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointRefusedError(folder, name, f"is not readable ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise CheckpointRefusedError(folder, name, "is no JSON object")
    return value


def _inside(folder: Path, name: str) -> Path:
    """The file `name`, a regular one below `folder`: a link out of it would show what was never published."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise CheckpointRefusedError(folder, name, "is a link out of the folder: copy the file into it")
    if not path.is_file():
        raise CheckpointRefusedError(folder, name, "is missing or no regular file: write the checkpoint again")
    return folder / name


def _plain(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _pieces(path: Path, given_up: Event | None) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            if given_up is not None and given_up.is_set():
                raise CheckpointRefusedError(path.parent, path.name, "not read to its end, the worker ends")
            yield piece


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _refuse_where(folder: Path, difference: tuple[str, str] | None) -> None:
    if difference is not None:
        raise CheckpointRefusedError(folder, *difference)
