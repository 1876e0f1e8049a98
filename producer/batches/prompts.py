"""Turn a trainer's prompts into int32 arrays: the ids where the mask is 1, in order. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.plain_values import plain

from ..calls.arrays import as_array
from ..errors import PromptsError

if TYPE_CHECKING:
    import torch

Rows: TypeAlias = (
    "torch.Tensor | NDArray[Any] | Sequence[Sequence[int]] | Sequence[NDArray[Any]] | Sequence[torch.Tensor]"
)
"""(B, width) as one tensor or array, or B rows of any lengths."""

MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """B prompts without their padding."""

    ids: list[NDArray[np.int32]]
    """One array for each row; empty if the mask is all 0, which a worker answers with an error for that row alone."""
    width: int
    """The number of columns: of the array, or of the longest ragged row."""

    @classmethod
    def of(cls, input_ids: Rows, attention_mask: Rows | None = None) -> Prompts:
        """Read prompts of any integer dtype, with any mask of 0 and 1; without a mask every id is a token.

        Raises `PromptsError`, which names row and column.
        """
        rows = masked_rows(input_ids, attention_mask)
        return cls(ids=[ids for ids, _ in rows], width=max(len(keep) for _, keep in rows))


def masked_rows(input_ids: Rows, attention_mask: Rows | None) -> list[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    """The ids of each row, and in which columns they are. Raises `PromptsError`, which names row and column."""
    rows = _rows("input_ids", input_ids)
    masks = None if attention_mask is None else _rows("attention_mask", attention_mask)
    if not rows:
        raise PromptsError("input_ids", "no prompts: give at least one row")
    if masks is not None and len(masks) != len(rows):
        raise PromptsError("attention_mask", f"{len(masks)} rows, but input_ids has {len(rows)}")
    return [_tokens(number, row, None if masks is None else masks[number]) for number, row in enumerate(rows)]


def _rows(what: str, given: object) -> list[NDArray[Any]]:
    if isinstance(given, Mapping) or (hasattr(given, "keys") and not hasattr(given, "__array__")):
        raise PromptsError(
            what, f"got a mapping ({_type(given)}): pass its 'input_ids' and 'attention_mask' themselves"
        )
    array = as_array(what, given)
    if isinstance(array, np.ndarray) and (array.dtype != np.object_ or array.ndim == 0):
        if array.ndim != 2:
            hint = "; one prompt alone is [ids]" if array.ndim == 1 else ""
            raise PromptsError(what, f"shape {array.shape}: expected (prompts, columns){hint}")
        return list(array)
    rows = given if array is None else array
    if isinstance(rows, str | bytes) or not isinstance(rows, Sequence | np.ndarray):
        raise PromptsError(what, f"got {_type(given)}: expected a tensor, an array or a list of rows{_hint(given)}")
    return [_row(what, number, row) for number, row in enumerate(rows)]


def _row(what: str, number: int, given: object) -> NDArray[Any]:
    array = as_array(what, given, number)
    if isinstance(array, list):
        raise PromptsError(what, f"got a nested {_type(given)}: expected one dimension a row", number)
    if array is None or (array.dtype == np.object_ and array.ndim == 1):
        array = _row_of_list(what, number, given if array is None else list(array))
    if array.ndim != 1:
        raise PromptsError(what, f"shape {array.shape}: expected one dimension a row", number)
    return array


def _row_of_list(what: str, number: int, given: object) -> NDArray[Any]:
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        hint = "; one prompt alone is [ids]" if isinstance(given, int) else _hint(given)
        raise PromptsError(what, f"got {_type(given)}: expected a list of ids{hint}", number)
    kinds = set(map(type, given))
    if kinds - {int}:
        given = [plain(value) for value in given]
        kinds = set(map(type, given))
    if bool in kinds and len(kinds) > 1:  # numpy would make these integers
        raise PromptsError(what, "booleans and numbers are mixed", number)
    return _array_of_list(what, number, given)


def _type(given: object) -> str:
    return type(given).__name__


def _hint(given: object) -> str:
    """What to write instead of text, a mapping or a generator."""
    if isinstance(given, str | bytes):
        return "; text is not tokenised here: give tokenizer(texts)['input_ids']"
    if isinstance(given, Mapping):
        return "; give the ids that it holds"
    return "; write list(...) around it" if isinstance(given, Iterable) else ""


def _array_of_list(what: str, number: int, given: Sequence[Any]) -> NDArray[Any]:
    if not given:
        return np.empty(0, np.int64)
    try:
        return np.asarray(given)
    except (ValueError, TypeError, OverflowError) as error:
        raise PromptsError(what, f"not a flat list of numbers ({error})", number) from None


def _tokens(number: int, row: NDArray[Any], mask: NDArray[Any] | None) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    if row.dtype.kind not in "iu":
        raise PromptsError("input_ids", f"{_kind(row)}: token ids are integers", number)
    keep = np.ones(len(row), np.bool_) if mask is None else _keep(number, mask, len(row))
    bad = keep & ((row < 0) | (row > MAX_ID))
    if bad.any():
        column = int(bad.argmax())
        raise PromptsError("input_ids", f"id {row[column]} is not within 0 to {MAX_ID}; is it padding?", number, column)
    return row[keep].astype(np.int32), keep


def _keep(number: int, mask: NDArray[Any], width: int) -> NDArray[np.bool_]:
    if len(mask) != width:
        raise PromptsError("attention_mask", f"{len(mask)} columns, but input_ids has {width}", number)
    if mask.dtype.kind not in "biuf":
        raise PromptsError("attention_mask", f"{_kind(mask)}: expected 0 and 1", number)
    keep = mask == 1
    strange = ~keep & (mask != 0)
    if strange.any():
        column = int(strange.argmax())
        raise PromptsError("attention_mask", f"{mask[column]} is neither 0 nor 1", number, column)
    return np.asarray(keep, np.bool_)


def _kind(array: NDArray[Any]) -> str:
    return "values of several kinds or beyond 64 bits" if array.dtype == np.object_ else f"dtype {array.dtype}"
