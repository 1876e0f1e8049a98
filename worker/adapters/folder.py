"""Find an adapter in its folder and check that it fits the model; vLLM does neither."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollstream.schemas import ErrorCode, NameRefusedError
from rollstream.schemas.keys import check_adapter
from rollstream.schemas.weights.adapter_config import CONFIG_FILE, WEIGHTS_FILE, config_problem
from rollstream.schemas.weights.adapter_expressions import expressions_problem
from rollstream.schemas.weights.adapter_tensors import pairs_problem, tensors_problem

from ..errors import DataError, adapter_refused
from ..requests import Adapter
from ..weights.adapter_content import AdapterContent, read_content, still
from ..weights.non_finite import FLOATS, first_not_finite
from ..weights.safetensors_header import HeaderError, TensorHeader, read_header
from ..weights.untrusted_json import JsonRefusedError, read_object

Shapes = Mapping[str, frozenset[tuple[int, ...]]]
"""Layer (`layers.0.mlp.up_proj`) to the shapes (out, in) that its weight may have; empty if unknown."""


class AdapterFolder:
    """The adapters in `<root>/<name@version>/`; a job can name no other folder.

    Each gets an id that no other adapter of this process ever has: vLLM knows adapters by id alone, and would silently
    keep the old weights for an id used twice.
    """

    def __init__(self, *, root: Path | None, max_rank: int, model: Path | None) -> None:
        """Read the headers of `model` now, because its folder may be gone when the first adapter comes."""
        self._root = root
        self._max_rank = max_rank
        self._shapes: Shapes = {} if model is None else _read_shapes(model)
        self._ids = itertools.count(1)
        self._found: dict[str, tuple[Adapter, AdapterContent]] = {}

    def find(self, name: str) -> Adapter:
        """The adapter `name@version`. Checked once; its files must stay the same, since vLLM may read them again.

        The first time it reads all weights, about 0.1 s per 100 MB: call it in a thread, once at a time for each name.
        Raises `DataError`: `unknown_adapter` if there is none (it may be published later), `adapter_refused` if its
        config or tensors do not fit this worker's model and rank, or are not finite.
        """
        if name not in self._found:
            folder = self._folder(name)
            content = read_content(folder)
            self._found[name] = replace(self.admit(name, folder), sha256=content.sha256 or ""), content
        adapter, content = self._found[name]
        now = still(adapter.path, content)
        if now is None:
            problem = "its files changed after it was loaded; publish another version under a new name"
            raise adapter_refused(name, problem)
        self._found[name] = adapter, now
        return adapter

    def admit(self, name: str, folder: Path) -> Adapter:
        """Check the adapter in `folder`, wherever that is. Raises `DataError` (`adapter_refused`)."""
        config = _check_config(name, folder, self._max_rank)
        _check_tensors(name, folder, config, self._shapes)
        return Adapter(name=name, int_id=next(self._ids), path=folder)

    def _folder(self, name: str) -> Path:
        if self._root is None:
            problem = f"adapter {name!r}: this worker serves no adapters; start it with --adapter-dir or --lora"
            raise DataError(ErrorCode.UNKNOWN_ADAPTER, "adapter", problem)
        try:
            folder = self._root / check_adapter(name)
        except NameRefusedError as error:
            raise DataError(ErrorCode.UNKNOWN_ADAPTER, "adapter", str(error)) from None
        if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises where the folder may not be seen
            problem = f"adapter {name!r}: the worker's --adapter-dir has no folder of that name; publish it first"
            raise DataError(ErrorCode.UNKNOWN_ADAPTER, "adapter", problem)
        return Path(os.path.realpath(folder))


def _check_config(name: str, folder: Path, max_rank: int) -> Mapping[str, Any]:
    """Raises `DataError` when vLLM could not apply the adapter as PEFT would."""
    try:
        config = read_object(folder / CONFIG_FILE)
    except JsonRefusedError as error:
        raise adapter_refused(name, f"{CONFIG_FILE} {error}") from None
    if problem := config_problem(config):
        raise adapter_refused(name, f"{CONFIG_FILE}: {problem}")
    if config["r"] > max_rank:
        raise adapter_refused(name, f"rank {config['r']} exceeds the worker's --max-lora-rank {max_rank}")
    return config


def _check_tensors(name: str, folder: Path, config: Mapping[str, Any], model: Shapes) -> None:
    try:
        header = read_header(folder / WEIGHTS_FILE)
    except HeaderError as error:
        raise adapter_refused(name, str(error)) from None
    shapes = {tensor: (found.dtype, found.shape) for tensor, found in header.items()}
    problem = tensors_problem(config, shapes, FLOATS) or pairs_problem(shapes) or expressions_problem(config, shapes)
    if problem:
        raise adapter_refused(name, f"{WEIGHTS_FILE}: {problem}")
    for tensor, found in header.items() if model else ():
        module, _, part = tensor.removesuffix(".weight").rpartition(".")
        _check_fit(name, tensor, found.shape, model.get(_layer(module)), part)
    _check_values(name, folder / WEIGHTS_FILE, header)


def _check_values(name: str, path: Path, header: Mapping[str, TensorHeader]) -> None:
    try:
        spoilt = first_not_finite(path, header)
    except OSError as error:
        raise adapter_refused(name, f"{path.name} is not readable ({error.strerror})") from None
    if spoilt is not None:
        raise adapter_refused(name, f"tensor {spoilt} has a weight that is NaN or infinite: its training diverged")


def _check_fit(
    name: str, tensor: str, shape: tuple[int, ...], model: frozenset[tuple[int, ...]] | None, part: str
) -> None:
    if model is None:
        raise adapter_refused(name, f"tensor {tensor} names a layer that the worker's model does not have")
    side = 1 if part == "lora_A" else 0
    if model and shape[side] not in {weight[side] for weight in model}:
        sizes = " or ".join(str(weight[side]) for weight in sorted(model))
        raise adapter_refused(
            name, f"tensor {tensor} has shape {list(shape)}, the model's layer needs {sizes}: made for another model"
        )


def _read_shapes(model: Path) -> Shapes:
    """Shapes of the model's own weights, from its safetensors headers; empty if it has none."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    try:
        headers = [read_header(path) for path in sorted(model.glob("*.safetensors"))]
    except (OSError, HeaderError):
        return {}  # vLLM will tell what is wrong with the model
    for tensor, found in itertools.chain.from_iterable(header.items() for header in headers):
        module, _, parameter = tensor.rpartition(".")
        known = shapes.setdefault(_layer(module), set())
        if parameter == "weight" and _tells_shape(found):
            known.add(found.shape)
    return {layer: frozenset(found) for layer, found in shapes.items()}


def _tells_shape(tensor: TensorHeader) -> bool:
    """Whether the weight's shape is (out, in); a quantised weight is packed and has another."""
    return tensor.dtype in FLOATS and len(tensor.shape) == 2


def _layer(module: str) -> str:
    """The module's path from its layer number on; the part before differs between PEFT, checkpoints and vLLM."""
    before, found, after = module.partition("layers.")
    return found + after if found else before.rpartition(".")[2]
