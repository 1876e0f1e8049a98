"""In which order the jobs of a batch are queued: those whose completions may become longest first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.errors import shown
from rollstream.schemas.plain_values import plain

from ..calls.arrays import as_array
from ..errors import PromptsError

if TYPE_CHECKING:
    import torch

Counts: TypeAlias = "torch.Tensor | NDArray[Any] | Sequence[int] | None"
"""One number for each prompt, or None."""

_MOST = 2**31 - 1
_NAME = "expected_tokens"


def expected_tokens(given: Any, prompts: int) -> NDArray[np.int32] | None:
    """What `expected_tokens` says of each prompt; None if it was not given.

    Raises `PromptsError` for a wrong number of them, and for what is no integer of 0 or more, with its row.
    """
    if given is None:
        return None
    array = as_array(_NAME, given)
    if array is None and (isinstance(given, str | bytes) or not isinstance(given, Sequence)):
        raise PromptsError(_NAME, f"got {type(given).__name__}: expected {prompts} integers, one for each prompt")
    if isinstance(array, np.ndarray) and array.ndim != 1:
        raise PromptsError(_NAME, f"{array.ndim} dimensions: expected one integer for each prompt")
    counts = [plain(value) for value in (given if array is None else array)]
    if len(counts) != prompts:
        raise PromptsError(_NAME, f"{len(counts)} integers, but input_ids has {prompts} rows: give one for each prompt")
    for row, count in enumerate(counts):
        if type(count) is not int or not 0 <= count <= _MOST:
            raise PromptsError(_NAME, f"{shown(count)} is no integer from 0 to {_MOST}", row)
    return np.array(counts, np.int32)


def longest_first(expected: Sequence[NDArray[np.int32] | None]) -> list[int]:
    """The numbers of jobs in the order in which they are queued, by what each expects of its prompts: by the longest
    one, then by all of them together, then as they are numbered. None: the job says nothing.
    """
    return sorted(range(len(expected)), key=lambda job: (*_key(expected[job]), job))


def _key(expected: NDArray[np.int32] | None) -> tuple[int, int]:
    return (0, 0) if expected is None else (-int(expected.max()), -int(expected.sum(dtype=np.int64)))
