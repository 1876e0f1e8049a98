"""Turn tensors, arrays and columns of any library into numpy arrays, or refuse them. Imports no torch."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.printable import first_line

from ..errors import PromptsError

Given: TypeAlias = "NDArray[Any] | list[Any]"


_UNMASKED = {
    "input_ids": "ids.data, and ~numpy.ma.getmaskarray(ids) as the attention_mask",
    "attention_mask": "mask.filled(0)",
    "first": "first.data",
    "expected_tokens": "expected_tokens.filled(0)",
}
_OWN_FLOATS = ("torch.float16", "torch.float32", "torch.float64")
"""The float types that numpy has too; bfloat16 and float8 fit into float32."""


def as_array(what: str, given: Any, row: int | None = None) -> Given | None:
    """An array, or a list of rows if they are ragged; None if `given` is no array at all.

    Raises `PromptsError` for arrays whose visible numbers are not the real ones.
    """
    if isinstance(given, np.ma.MaskedArray):
        raise PromptsError(what, f"a masked array, whose mask would be lost: give {_UNMASKED[what]}", row)
    if isinstance(given, np.ndarray):
        return np.asarray(given)
    if hasattr(given, "detach") and hasattr(given, "cpu"):
        return _of_torch(what, given, row)
    if hasattr(given, "columns"):  # read by rows, a table of ids and masks would be prompts of two tokens
        raise PromptsError(what, f"got a table ({type(given).__name__}): give its column of ids", row)
    if hasattr(given, "__array__"):  # jax, pandas, pyarrow, polars
        try:
            return np.asarray(given)
        except Exception as error:  # noqa: BLE001 - a foreign library may raise anything
            raise _unreadable(what, given, error, row) from None
    return None


def _of_torch(what: str, given: Any, row: int | None) -> Given:
    if problem := _without_values(given):
        raise PromptsError(what, problem, row)
    try:
        if given.is_nested:
            return [_dense(what, one, row) for one in given.unbind()]
        return _dense(what, given, row)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise _unreadable(what, given, error, row) from None


def _without_values(given: Any) -> str | None:
    """Why the tensor's numbers are not here, or are not the real ones; None if they are."""
    if getattr(given, "is_meta", False):
        return "a tensor of the meta device holds no numbers: give the real one"
    if getattr(given, "is_quantized", False):
        return "a quantised tensor: give integers, such as its int_repr()"
    if hasattr(given, "full_tensor"):  # gathering it is a collective, which all ranks must call
        return "a DTensor, of which this process holds a part: give its full_tensor(), or to_local() for its own rows"
    return None


def _dense(what: str, given: Any, row: int | None) -> NDArray[Any]:
    dense = given.to_dense() if str(given.layout) != "torch.strided" else given
    if dense.dtype.is_floating_point and what == "input_ids":
        raise PromptsError(what, f"dtype {given.dtype}: expected integers", row)
    if dense.dtype.is_floating_point and str(dense.dtype) not in _OWN_FLOATS:
        dense = dense.float()
    return np.asarray(dense.numpy(force=True))


def _unreadable(what: str, given: object, error: Exception, row: int | None) -> PromptsError:
    told = f"{type(error).__name__}: {first_line(error, most=200)}"
    return PromptsError(what, f"{type(given).__name__} cannot be read ({told})", row)
