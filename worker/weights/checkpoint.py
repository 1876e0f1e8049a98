"""Check that a checkpoint fits the boot model, before the engine is touched.

vLLM checks little of this: a missing tensor leaves a mixture of two models, and a wrong shape leaves half-replaced
layers that kill the engine at its next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollstream.schemas.weights.checkpoint_rules import (
    INDEX,
    index_difference,
    is_computed,
    is_head,
    unread_weights,
    wrapped,
)
from rollstream.schemas.weights.tied_head import head_difference
from rollstream.schemas.wire.rounds import SAFETENSORS_DTYPES, Sent

from ..errors import CheckpointRefusedError
from .checkpoint_content import (
    Content,
    CopyFailedError,
    Stamp,
    copy_content,
    digest,
    holds,
    read_content,
    stamp,
    store_content,
    unchanged,
    unread_content,
)
from .checkpoint_folder import all_names, content_names, inside, reading
from .model_config import config_difference, language_config
from .safetensors_header import HeaderError, TensorHeader, read_header
from .untrusted_json import JsonRefusedError, read_object

__all__ = [
    "Booted", "Content", "CopyFailedError", "Layout", "Stamp", "TensorHeader", "check", "check_tensors", "copy_content",
    "digest", "holds", "path_problem", "read_content", "read_layout", "read_tensors", "stamp", "store_content",
    "tensor_difference", "unchanged", "unread", "unread_content",
]  # fmt: skip

CONFIG = "config.json"

_OPTIONAL_PREFIXES = {"gpt2": "transformer.", "bloom": "transformer.", "opt": "model."}
_GLOB = frozenset("*?[")
"""vLLM looks for weights with a pattern that begins with the folder's path, so the path may not have these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A checkpoint's config, and its tensors: name to (header, file), without those that are computed anyway."""

    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[TensorHeader, str]]

    @property
    def tied(self) -> bool:
        """Whether the output layer is the embedding, so that `lm_head.weight` may be missing."""
        said = language_config(self.config).get("tie_word_embeddings")
        return not any(map(is_head, self.tensors)) if said is None else bool(said)


class Booted:
    """The layout of the boot model, read once at the engine's start: its folder may be gone at a swap."""

    def __init__(self, *, folder: Path, tied: bool | None = None) -> None:
        """Blocks on the disk. An unreadable folder does not fail the start; `layout` raises the error later."""
        self.tied = tied
        """Whether the engine uses the embedding as output layer and ignores a checkpoint's; None: see the config."""
        self._read: Layout | CheckpointRefusedError
        try:
            self._read = read_layout(folder, confined=False)
        except CheckpointRefusedError as error:
            problem = f"{error.problem} (the worker booted with this model, so it can compare no other)"
            self._read = CheckpointRefusedError(folder, error.where, problem)

    @property
    def layout(self) -> Layout:
        """The boot model's layout. Raises `CheckpointRefusedError` if it could not be read at the start."""
        if isinstance(self._read, CheckpointRefusedError):
            raise CheckpointRefusedError(self._read.folder, self._read.where, self._read.problem)
        return self._read


def check(folder: Path, like: Booted | None) -> None:
    """Check that an engine that booted with `like` can load `folder`; None: check only that it is complete.

    Reads headers, and the two tensors of a tied output layer: blocks on the disk, so call it in a thread. Raises
    `CheckpointRefusedError`.
    """
    found = read_layout(folder, confined=True)
    tied = found.tied
    if like is not None:
        booted = like.layout
        tied = booted.tied if like.tied is None else like.tied
        # An engine may have found a separate output layer in a model whose config says that it is tied.
        compared = None if booted.tied and not tied else tied
        if problem := config_difference(found.config, booted.config, tied=compared):
            raise CheckpointRefusedError(folder, CONFIG, problem)
        if difference := tensor_difference(found.tensors, booted.tensors, tied=tied):
            raise CheckpointRefusedError(folder, *difference)
    if tied or found.tied:
        with reading(folder):
            if differs := head_difference(folder, found.tensors):
                raise CheckpointRefusedError(folder, "tensors", differs)


def check_tensors(named: Path, tensors: Mapping[str, TensorHeader], like: Booted) -> None:
    """Check tensors that are in no file yet against the boot model. Raises `CheckpointRefusedError` (`named`)."""
    booted = like.layout
    found = _merged(named, {"tensors": tensors}, _prefix(booted.config))
    if difference := tensor_difference(found, booted.tensors, tied=booted.tied if like.tied is None else like.tied):
        raise CheckpointRefusedError(named, *difference)


def path_problem(folder: Path) -> str | None:
    """Why vLLM would not find the weights in a folder of this path; None if it would."""
    return "the path has one of * ? [, with which vLLM would find no files, or others" if _globs(folder) else None


def _globs(folder: Path) -> bool:
    return bool(_GLOB.intersection(str(folder)))


def check_sent(sent: Sent, like: Booted) -> None:
    """The same for tensors that come without files; what they hold is not known yet. Raises `CheckpointRefusedError`.

    Their sizes are then those of the boot model, so that nothing is allocated for what a message claims.
    """
    folder, booted = Path("round"), like.layout
    prefix = _prefix(booted.config)
    found: dict[str, tuple[TensorHeader, str]] = {}
    for name, dtype, shape in zip(sent.names, sent.dtypes, sent.shapes, strict=True):
        header = TensorHeader(dtype=SAFETENSORS_DTYPES[dtype], shape=shape, start=0, end=0)
        if is_computed(name, shape):
            raise CheckpointRefusedError(folder, "tensors", f"tensor {name} is computed: leave it out")
        if found.setdefault(name.removeprefix(prefix), (header, "tensors"))[0] is not header:
            raise CheckpointRefusedError(folder, "tensors", f"tensor {name} comes twice")
    if difference := tensor_difference(found, booted.tensors, tied=booted.tied if like.tied is None else like.tied):
        raise CheckpointRefusedError(folder, *difference)


def unread(folder: Path) -> str | None:
    """Which weights in a model's folder vLLM leaves out, or reads instead of others; None if none, or unreadable.

    Only for a warning: a boot model may come from a hub in several formats.
    """
    try:
        with reading(folder):
            names = all_names(folder)
            mapped = _weight_map(folder, confined=False) if INDEX in names else None
    except CheckpointRefusedError:
        return None  # vLLM says what is wrong with the model itself
    return unread_weights(names, None if mapped is None else set(mapped.values()))


_Tensors = Mapping[str, tuple[TensorHeader, str]]


def tensor_difference(found: _Tensors, booted: _Tensors, *, tied: bool) -> tuple[str, str] | None:
    """(where, problem) for the first tensor that is missing, unknown, or of another shape or dtype."""
    if problem := wrapped(found):
        return "tensors", problem
    optional = set(filter(is_head, {*booted, *found})) if tied else set()
    missing = sorted(booted.keys() - found.keys() - optional)
    if missing:
        return "tensors", f"tensor {missing[0]} is missing{_more(missing)}: {_remedy(missing[0], found)}"
    extra = sorted(found.keys() - booted.keys() - optional)
    if extra:
        problem = f"the worker's model has no tensor {extra[0]}{_more(extra)}: publish the model that it booted with"
        return found[extra[0]][1], problem
    for name, (tensor, file) in sorted(found.items()):
        wanted = booted[name][0] if name in booted else tensor
        if tensor.shape != wanted.shape:
            problem = f"tensor {name} has shape {list(tensor.shape)}, the worker's model has {list(wanted.shape)}"
            return file, f"{problem}: publish the model that it booted with"
        if tensor.dtype != wanted.dtype:
            problem = f"tensor {name} is {tensor.dtype}, the worker's model has {wanted.dtype}"
            return file, f"{problem}: cast it before saving"
    return None


def _remedy(missing: str, found: _Tensors) -> str:
    if other := next((name for name in sorted(found) if name.endswith(f".{missing}")), None):
        return f"the checkpoint calls it {other}: save the model that is inside the wrapper"
    return "save the whole model, not a part or an adapter"


def read_layout(folder: Path, *, confined: bool) -> Layout:
    """Read config and tensor headers of a folder in Hugging Face's format.

    `confined`, for a published folder: no link may lead out of it, and it may have no weights that vLLM would leave
    out. Raises `CheckpointRefusedError` for files that are missing, truncated or contradict the index.
    """
    with reading(folder):
        present = content_names(folder)
        config = _read_json(folder, CONFIG, confined=confined)
        mapped = _weight_map(folder, confined=confined) if INDEX in present else None
        if confined:
            _check_names(folder, mapped)
        held = _held(folder, present, mapped, confined=confined)
        if confined and mapped is not None and (problem := index_difference(mapped, held)):
            raise CheckpointRefusedError(folder, INDEX, problem)
        return Layout(config=config, tensors=_merged(folder, held, _prefix(config)))


def read_tensors(folder: Path) -> dict[str, dict[str, TensorHeader]]:
    """The headers of all tensors that vLLM reads from a published folder, by file. Raises `CheckpointRefusedError`."""
    with reading(folder):
        present = content_names(folder)
        mapped = _weight_map(folder, confined=True) if INDEX in present else None
        return _held(folder, present, mapped, confined=True)


def _held(
    folder: Path, present: list[str], mapped: Mapping[str, str] | None, *, confined: bool
) -> dict[str, dict[str, TensorHeader]]:
    return {name: _read_tensors(folder, name, confined=confined) for name in _weight_files(folder, present, mapped)}


def _check_names(folder: Path, mapped: Mapping[str, str] | None) -> None:
    if _globs(folder):
        problem = "its path has one of * ? [, with which vLLM would find no files, or others: rename --checkpoint-dir"
        raise CheckpointRefusedError(folder, "folder", problem)
    if unread := unread_weights(all_names(folder), None if mapped is None else set(mapped.values())):
        where, _, problem = unread.partition(" ")
        raise CheckpointRefusedError(folder, where, problem)


def _weight_map(folder: Path, *, confined: bool) -> dict[str, str]:
    mapped = _read_json(folder, INDEX, confined=confined).get("weight_map")
    if not isinstance(mapped, dict) or not mapped or not all(map(_plain, mapped.values())):
        raise CheckpointRefusedError(folder, INDEX, "weight_map must map tensors to names of files in the folder")
    return mapped


def _weight_files(folder: Path, present: list[str], mapped: Mapping[str, str] | None) -> list[str]:
    """The files that vLLM reads."""
    if mapped is None:
        names = [name for name in present if name.endswith(".safetensors") and not name.startswith(".")]
        if not names:
            raise CheckpointRefusedError(folder, "files", "no *.safetensors file: write it with save_pretrained")
        return names
    names = sorted(set(mapped.values()))
    for name in names:
        if name not in present:
            raise CheckpointRefusedError(folder, name, "is missing: write the checkpoint again")
    return names


def _read_tensors(folder: Path, name: str, *, confined: bool) -> dict[str, TensorHeader]:
    try:
        return read_header(inside(folder, name) if confined else folder / name)
    except HeaderError as error:
        problem = f"{str(error).removeprefix(name).lstrip(': ')}: announce a checkpoint only once it is written"
        raise CheckpointRefusedError(folder, name, problem) from None


def _merged(folder: Path, held: Mapping[str, Mapping[str, TensorHeader]], prefix: str) -> _Tensors:
    tensors: dict[str, tuple[TensorHeader, str]] = {}
    for file, headers in held.items():
        for tensor, header in headers.items():
            name = tensor.removeprefix(prefix)
            if is_computed(tensor, header.shape):
                continue
            if name in tensors:
                raise CheckpointRefusedError(folder, file, f"tensor {tensor} is also in {tensors[name][1]}")
            tensors[name] = header, file
    return tensors


def _prefix(config: Mapping[str, Any]) -> str:
    """The prefix of tensor names that vLLM accepts but does not need: old checkpoints of some models have none."""
    kind = config.get("model_type")
    return _OPTIONAL_PREFIXES.get(kind, "") if isinstance(kind, str) else ""


def _read_json(folder: Path, name: str, *, confined: bool) -> dict[str, Any]:
    path = inside(folder, name) if confined else folder / name
    try:
        return read_object(path)
    except JsonRefusedError as error:
        raise CheckpointRefusedError(folder, name, str(error)) from None


def _plain(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
