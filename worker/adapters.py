"""An adapter that a request names was found where it may lie and fits the model; vLLM checks neither."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path

from schemas import ErrorCode, NameRefusedError
from schemas.keys import check_adapter
from worker.engine import Adapter
from worker.errors import DataError, adapter_refused
from worker.finite import FLOATS, first_not_finite
from worker.safetensors_header import HeaderError, TensorHeader, read_header
from worker.untrusted_json import JsonRefusedError, read_object

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

# What vLLM either refuses or, worse, silently ignores (vllm.lora.peft_helper.PEFTHelper).
_UNSUPPORTED = (
    "use_dora", "modules_to_save", "lora_bias", "rank_pattern", "alpha_pattern", "trainable_token_indices",
    "layer_replication",
)  # fmt: skip

Shapes = Mapping[str, frozenset[tuple[int, ...]]]
"""Layer (`layers.0.mlp.up_proj`) to the shapes (out, in) that its weight may have; empty where they say nothing."""


_Stamp = tuple[int, int] | None
"""Size and modification time of the weights, None when they are gone."""


class AdapterDirectory:
    """The adapters below one folder, `<root>/<name@version>/`: nothing else can be loaded, whatever a job says.

    Each gets an id that no other adapter of this process ever has: vLLM keys adapters by id alone, and an id used
    twice silently keeps the old weights.
    """

    def __init__(self, root: Path | None, max_rank: int, model: Path | None) -> None:
        """Reads the headers of `model` now: its folder may be gone when the first adapter comes."""
        self._root = root
        self._max_rank = max_rank
        self._shapes: Shapes = {} if model is None else _read_shapes(model)
        self._ids = itertools.count(1)
        self._found: dict[str, tuple[Adapter, _Stamp]] = {}

    def find(self, name: str) -> Adapter:
        """The adapter `name@version`, checked once, and still the same file: vLLM reads evicted adapters again.

        Reads all of its weights the first time, about 0.1 s per 100 MB: call it in a thread, one at a time for a name.
        Raises `DataError`: `unknown_adapter` where there is none (it may be published later), `adapter_refused` where
        its config or its tensors do not fit this worker's model and rank, or are not finite.
        """
        if name not in self._found:
            folder = self._folder(name)
            stamp = _stamp(folder)
            self._found[name] = self.admit(name, folder), stamp
        adapter, stamp = self._found[name]
        if _stamp(adapter.path) != stamp:
            problem = f"{WEIGHTS_FILE} changed after it was loaded; publish another version under a new name"
            raise adapter_refused(name, problem)
        return adapter

    def admit(self, name: str, folder: Path) -> Adapter:
        """One that lies in `folder`, wherever that is, checked as any. Raises `DataError` (`adapter_refused`)."""
        rank = _check_config(name, folder, self._max_rank)
        _check_tensors(name, folder, rank, self._shapes)
        return Adapter(name, next(self._ids), folder)

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


def _stamp(folder: Path) -> _Stamp:
    try:
        status = (folder / WEIGHTS_FILE).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _check_config(name: str, folder: Path, max_rank: int) -> int:
    """The adapter's rank. Raises `DataError` when vLLM could not apply the adapter as PEFT would."""
    try:
        config = read_object(folder / CONFIG_FILE)
    except JsonRefusedError as error:
        raise adapter_refused(name, f"{CONFIG_FILE} {error}") from None
    if config.get("peft_type") != "LORA":
        raise adapter_refused(name, f"{CONFIG_FILE}: peft_type must be 'LORA'")
    rank = config.get("r")
    if type(rank) is not int or rank < 1:
        raise adapter_refused(name, f"{CONFIG_FILE}: r must be a positive integer, not {rank!r}")
    if rank > max_rank:
        raise adapter_refused(name, f"rank {rank} exceeds the worker's --max-lora-rank {max_rank}")
    if config.get("bias", "none") != "none":
        raise adapter_refused(name, f"{CONFIG_FILE}: bias={config['bias']!r} is not supported, only 'none'")
    if unsupported := [field for field in _UNSUPPORTED if config.get(field)]:
        raise adapter_refused(name, f"{CONFIG_FILE}: {unsupported[0]} is not supported")
    return rank


def _check_tensors(name: str, folder: Path, rank: int, model: Shapes) -> None:
    try:
        header = read_header(folder / WEIGHTS_FILE)
    except HeaderError as error:
        raise adapter_refused(name, str(error)) from None
    if not header:
        raise adapter_refused(name, f"{WEIGHTS_FILE} has no tensors")
    for tensor, found in header.items():
        module, _, part = tensor.removesuffix(".weight").rpartition(".")
        if part not in ("lora_A", "lora_B"):
            raise adapter_refused(name, f"tensor {tensor} is no LoRA weight of a linear layer")
        _check_shape(name, tensor, found.shape, 0 if part == "lora_A" else 1, rank)
        if found.dtype not in FLOATS:
            raise adapter_refused(
                name, f"tensor {tensor} is {found.dtype}, not {' or '.join(FLOATS)}: cast it before saving"
            )
        if model:
            _check_fit(name, tensor, found.shape, model.get(_layer(module)), part)
    _check_values(name, folder / WEIGHTS_FILE, header)


def _check_values(name: str, path: Path, header: Mapping[str, TensorHeader]) -> None:
    try:
        spoilt = first_not_finite(path, header)
    except OSError as error:
        raise adapter_refused(name, f"{path.name} is not readable ({error.strerror})") from None
    if spoilt is not None:
        raise adapter_refused(name, f"tensor {spoilt} has a weight that is NaN or infinite: its training diverged")


def _check_shape(name: str, tensor: str, shape: tuple[int, ...], rank_side: int, rank: int) -> None:
    if len(shape) != 2 or shape[rank_side] != rank:
        raise adapter_refused(name, f"tensor {tensor} has shape {list(shape)}, which is not of rank {rank}")


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
    """Shapes of the model's own weights, from its safetensors headers; empty where it has none."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    try:
        headers = [read_header(path) for path in sorted(model.glob("*.safetensors"))]
    except (OSError, HeaderError):
        return {}  # vLLM will say what is wrong with the model itself
    for tensor, found in itertools.chain.from_iterable(header.items() for header in headers):
        module, _, parameter = tensor.rpartition(".")
        known = shapes.setdefault(_layer(module), set())
        if parameter == "weight" and _tells_shape(found):
            known.add(found.shape)
    return {layer: frozenset(found) for layer, found in shapes.items()}


def _tells_shape(tensor: TensorHeader) -> bool:
    """A quantised weight is packed: its shape is not (out, in)."""
    return tensor.dtype in FLOATS and len(tensor.shape) == 2


def _layer(module: str) -> str:
    """The module's path from its layer number on; what comes before differs between PEFT, checkpoints and vLLM."""
    before, found, after = module.partition("layers.")
    return found + after if found else before.rpartition(".")[2]
