"""A checkpoint is the one announced, and fits the model that the worker booted with, before the engine is touched.

vLLM checks little of this: a missing tensor leaves a mixture of two models behind, and a wrong shape half-replaced
layers that end the engine at its next step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Event
from typing import Any

from schemas.content_digest import CHECKPOINT_FILES, content_digest
from schemas.regular_files import open_regular
from worker.errors import CheckpointRefusedError
from worker.model_config import config_difference, language_config
from worker.safetensors_header import HeaderError, TensorHeader, read_header
from worker.untrusted_json import JsonRefusedError, read_object

CONFIG, INDEX = "config.json", "model.safetensors.index.json"

_PIECE = 2**20
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
        said = language_config(self.config).get("tie_word_embeddings")
        return not any(map(_is_head, self.tensors)) if said is None else bool(said)


class Booted:
    """The layout of the model that an engine booted with, read once, at its start: its folder may be gone at a swap."""

    def __init__(self, folder: Path) -> None:
        """Blocks on the disk. What cannot be read is no fault of the start: `layout` raises it."""
        self._read: Layout | CheckpointRefusedError
        try:
            self._read = read_layout(folder, confined=False)
        except CheckpointRefusedError as error:
            problem = f"{error.problem} (the worker booted with this model, so it can compare no other)"
            self._read = CheckpointRefusedError(folder, error.where, problem)

    @property
    def layout(self) -> Layout:
        """Raises `CheckpointRefusedError` where it could not be read at the start."""
        if isinstance(self._read, CheckpointRefusedError):
            raise CheckpointRefusedError(self._read.folder, self._read.where, self._read.problem)
        return self._read


def digest(folder: Path, given_up: Event | None = None) -> str:
    """The sha256 (hex) that names the content of a checkpoint folder, see `schemas.content_digest`.

    Reads every byte, a piece at a time: blocks for seconds, so call it in a thread, which nothing but `given_up` ends
    early. Raises `CheckpointRefusedError`.
    """
    with _reading(folder):
        paths = [_inside(folder, name) for name in _names(folder)]
        return content_digest((path.name, path.stat().st_size, _pieces(path, given_up)) for path in paths)


def stamp(folder: Path) -> Stamp:
    """Changes when the files of a checkpoint do, without reading them; what cannot be seen is left out, never raised.

    So a folder that cannot be read has an empty stamp until it can, and `digest` says why.
    """
    found = []
    with suppress(OSError):
        for name in _listed(folder):
            with suppress(OSError):
                status = (folder / name).stat()
                found.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)


def check(folder: Path, like: Booted | None) -> None:
    """Whether an engine that booted with `like` can load `folder`; None asks only whether it is whole.

    Reads headers alone, but blocks on the disk: call it in a thread. Raises `CheckpointRefusedError`.
    """
    found = read_layout(folder, confined=True)
    if like is not None:
        booted = like.layout
        if problem := config_difference(found.config, booted.config, tied=booted.tied):
            raise CheckpointRefusedError(folder, CONFIG, problem)
        if difference := tensor_difference(found, booted):
            raise CheckpointRefusedError(folder, *difference)


def tensor_difference(found: Layout, booted: Layout) -> tuple[str, str] | None:
    """(where, problem) of the first tensor that is missing, too much, or of another shape or dtype."""
    optional = set(filter(_is_head, {*booted.tensors, *found.tensors})) if booted.tied else set()
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
    with _reading(folder):
        present = _names(folder)
        config = _read_json(folder, CONFIG, confined=confined)
        mapped = _read_json(folder, INDEX, confined=confined) if INDEX in present else None
        files = _weight_files(folder, present, mapped)
        tensors: dict[str, tuple[TensorHeader, str]] = {}
        for name in files:
            for tensor, header in _read_tensors(folder, name, confined=confined).items():
                if tensor in tensors:
                    raise CheckpointRefusedError(folder, name, f"tensor {tensor} is also in {tensors[tensor][1]}")
                tensors[tensor] = header, name
        _check_index(folder, (mapped or {}).get("weight_map", {}), tensors)
        return Layout(config, tensors)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """A shared folder can fail at any call (ESTALE, EIO, EACCES), also after it was seen to be there."""
    try:
        yield
    except OSError as error:
        where = Path(error.filename).name if isinstance(error.filename, str) else "files"
        problem = "no folder of that name: publish it before it is announced"
        if where != folder.name or not isinstance(error, FileNotFoundError | NotADirectoryError):
            problem = f"cannot be read ({error.strerror})"
        raise CheckpointRefusedError(folder, "folder" if where == folder.name else where, problem) from None


def _listed(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir()]
    return sorted(name for name in names if any(fnmatchcase(name, like) for like in CHECKPOINT_FILES))


def _names(folder: Path) -> list[str]:
    names = _listed(folder)
    for name in names:
        if not name.isprintable():
            raise CheckpointRefusedError(folder, "files", f"the name {name!a} cannot be printed: write it again")
    return names


def _weight_files(folder: Path, present: list[str], index: Mapping[str, Any] | None) -> list[str]:
    if index is None:
        names = [name for name in present if name.endswith(".safetensors")]
        if not names:
            raise CheckpointRefusedError(folder, "files", "no *.safetensors file: write it with save_pretrained")
        return names
    mapped = index.get("weight_map")
    if not isinstance(mapped, dict) or not mapped or not all(map(_plain, mapped.values())):
        raise CheckpointRefusedError(folder, INDEX, "weight_map must map tensors to names of files in the folder")
    names = sorted(set(mapped.values()))
    for name in names:
        if name not in present:
            raise CheckpointRefusedError(folder, name, "is missing: write the checkpoint again")
    return names


def _read_tensors(folder: Path, name: str, *, confined: bool) -> dict[str, TensorHeader]:
    try:
        return read_header(_inside(folder, name) if confined else folder / name)
    except HeaderError as error:
        problem = f"{str(error).removeprefix(name).lstrip(': ')}: announce a checkpoint only once it is written"
        raise CheckpointRefusedError(folder, name, problem) from None


def _check_index(folder: Path, mapped: Mapping[str, str], tensors: Mapping[str, tuple[TensorHeader, str]]) -> None:
    for tensor, name in mapped.items():
        if tensor not in tensors or tensors[tensor][1] != name:
            raise CheckpointRefusedError(folder, INDEX, f"tensor {tensor} is not in {name}: write the index again")


def _read_json(folder: Path, name: str, *, confined: bool) -> dict[str, Any]:
    path = _inside(folder, name) if confined else folder / name
    try:
        return read_object(path)
    except JsonRefusedError as error:
        raise CheckpointRefusedError(folder, name, str(error)) from None


def _inside(folder: Path, name: str) -> Path:
    """The file `name`, a regular one below `folder`: a link out of it would show what was never published."""
    path = Path(os.path.realpath(folder / name))
    if not path.is_relative_to(os.path.realpath(folder)):
        raise CheckpointRefusedError(folder, name, "is a link out of the folder: copy the file into it")
    if not path.is_file():
        raise CheckpointRefusedError(folder, name, "is missing or no regular file: write the checkpoint again")
    return folder / name


def _is_head(tensor: str) -> bool:
    return tensor == _HEAD or tensor.endswith(f".{_HEAD}")


def _plain(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _pieces(path: Path, given_up: Event | None) -> Iterator[bytes]:
    with open_regular(path) as file:
        while piece := file.read(_PIECE):
            if given_up is not None and given_up.is_set():
                raise CheckpointRefusedError(path.parent, path.name, "not read to its end, the worker ends")
            yield piece


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
