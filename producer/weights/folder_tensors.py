"""The tensors of a checkpoint's folder, read file by file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rollstream.schemas.weights.checkpoint_rules import is_computed
from rollstream.schemas.weights.finite import has_not_finite, not_finite
from rollstream.schemas.weights.regular_files import open_regular
from rollstream.schemas.weights.tensor_digest import ITEM_BYTES

from ..policies.checkpoint_files import CheckpointFolder
from ..policies.errors import CheckpointError
from .tensor_values import Advanced, TensorValues


def folder_tensors(folder: CheckpointFolder, path: Path, advanced: Advanced) -> dict[str, TensorValues]:
    """All tensors, copied into memory: the folder may go once this returns. Blocks.

    `folder` has checked headers and names. Raises `CheckpointError`, also for weights that are NaN or infinite, and
    for files that change meanwhile.
    """
    before = folder.stamps()
    found: dict[str, TensorValues] = {}
    read = 0
    try:
        for file in sorted(path.glob("*.safetensors")):
            for name, values in _tensors(path, file):
                found[name] = values
                read += values.values.nbytes
                advanced(read)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(str(path), f"cannot be read: {error}") from None
    if folder.stamps() != before:
        raise CheckpointError(str(path), "its files changed while they were read: publish it once it is written")
    return found


def _tensors(folder: Path, path: Path) -> Iterator[tuple[str, TensorValues]]:
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, told in sorted(header.items(), key=lambda one: one[1].get("data_offsets", [0])[0]):
            shape = tuple(told.get("shape", ()))
            if name == "__metadata__" or is_computed(name, shape):
                continue
            if told["dtype"] not in ITEM_BYTES:
                raise CheckpointError(str(folder), f"tensor {name} is {told['dtype']}, which no weight store carries")
            start, end = told["data_offsets"]
            file.seek(8 + length + start)
            values = np.frombuffer(file.read(end - start), np.uint8)
            if has_not_finite(values.data, told["dtype"]):
                raise CheckpointError(str(folder), f"{path.name}: {not_finite(name)}")
            yield name, TensorValues(told["dtype"], shape, values)
