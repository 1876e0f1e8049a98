"""Named tensors and a text in one file of the format safetensors, which holds no code. A file may say anything."""

from __future__ import annotations

from collections.abc import Mapping
from errno import EISDIR
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import TensorFileError

if TYPE_CHECKING:
    import torch

_KIND, _TEXT = "rollstream", "text"
_DTYPES = {"int32": "I32", "int64": "I64", "float32": "F32", "uint8": "U8"}


class Form(NamedTuple):
    """What a tensor must be. A letter of `sides` stands for the same size wherever it is."""

    dtype: str
    sides: str
    needed: bool = True


def write_tensors(path: Path, kind: str, tensors: Mapping[str, torch.Tensor], text: str) -> None:
    """Write beside `path` first, so that what is there is whole. Raises `OSError`."""
    from safetensors import SafetensorError  # noqa: PLC0415 - a producer that only submits needs none
    from safetensors.numpy import save_file  # noqa: PLC0415 - as above

    arrays = {name: np.ascontiguousarray(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()}
    beside = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        save_file(arrays | {_TEXT: np.frombuffer(text.encode(), np.uint8)}, beside, metadata={_KIND: kind})
        beside.replace(path)
    except SafetensorError as error:  # its own words for a full disk or a folder that is not there
        raise OSError(f"{path}: cannot be written: {error}") from None
    finally:
        beside.unlink(missing_ok=True)


def read_tensors(
    path: Path, kind: str, forms: Mapping[str, Form]
) -> tuple[dict[str, torch.Tensor], bytes, dict[str, int]]:
    """The tensors, the text, and the size that each letter stands for. Raises `OSError`, `TensorFileError`."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - as above

    if path.is_dir():  # safetensors would not say which
        raise IsADirectoryError(EISDIR, "is a folder, give the file in it", str(path))
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get(_KIND) != kind:
                raise TensorFileError(path, f"holds no {kind}")
            sizes = _sizes(path, file, {**forms, _TEXT: Form("uint8", "*")})
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise TensorFileError(path, f"is no safetensors file ({error})") from None
    return tensors, tensors.pop(_TEXT).numpy().tobytes(), sizes


def _sizes(path: Path, file: Any, forms: Mapping[str, Form]) -> dict[str, int]:
    """By the header alone, before a tensor is read."""
    names, sizes = set(file.keys()), dict[str, int]()
    if unknown := sorted(names - set(forms)):
        raise TensorFileError(path, f"has a tensor {unknown[0]!r:.80}, which nothing here reads")
    for name, form in forms.items():
        if name in names:
            one = file.get_slice(name)
            dtype, shape = one.get_dtype(), tuple(one.get_shape())
            fits = dtype == _DTYPES[form.dtype] and len(shape) == len(form.sides)
            if not fits or any(
                sizes.setdefault(side, size) != size for side, size in zip(form.sides, shape, strict=True)
            ):
                raise TensorFileError(path, f"{name}: {dtype} {shape} does not fit the rest of the file")
        elif form.needed:
            raise TensorFileError(path, f"has no tensor {name!r}")
    return sizes
