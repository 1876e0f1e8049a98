"""Tensors of different widths as one, for `cat`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import RowsError

if TYPE_CHECKING:
    import torch


def cat_padded(tensors: Sequence[torch.Tensor], fill: float, left: Sequence[int] | None = None) -> torch.Tensor:
    """Rows one after the other; all further sides as wide as the widest, `fill` on the right.

    `left`: for each tensor, how many columns of `fill` come on the left of its second side.
    """
    import torch  # noqa: PLC0415 - `import rollstream` imports no torch
    from torch.nn.functional import pad  # noqa: PLC0415 - as above

    before = left or [0] * len(tensors)
    both = zip(tensors, before, strict=True)
    wide = [pad(one, (*[0, 0] * (one.ndim - 2), columns, 0), value=fill) if columns else one for one, columns in both]
    sides = [max(sizes) for sizes in zip(*(one.shape[1:] for one in wide), strict=True)]
    return torch.cat([pad(one, _missing(one, sides), value=fill) for one in wide])


def _missing(tensor: torch.Tensor, sides: Sequence[int]) -> list[int]:
    """What `pad` adds on the right of each side, the last side first."""
    missing = [side - size for side, size in zip(sides, tensor.shape[1:], strict=True)]
    return [item for one in reversed(missing) for item in (0, one)]


def check_kind(kind: type, batches: Sequence[object], name: str = "batches") -> None:
    """Raises `RowsError`, for the argument of this name, unless there is at least one batch, and each is a `kind`."""
    if not batches:
        raise RowsError(name, "there is none: give one at least")
    for one in batches:
        if not isinstance(one, kind):
            raise RowsError(name, f"each must be a {kind.__name__}, one is a {type(one).__name__}")


def all_or_none(name: str, values: Sequence[object]) -> bool:
    """Whether all of `values` are there. Raises `RowsError` if only some are."""
    there = [value is not None for value in values]
    if any(there) and not all(there):
        raise RowsError(name, f"batch {there.index(True)} has them and batch {there.index(False)} has none")
    return all(there)


def one_of(name: str, values: Sequence[object]) -> None:
    """Raises `RowsError` unless all of `values` are the same."""
    for number, value in enumerate(values):
        if value != values[0]:
            raise RowsError(name, f"that of batch {number} is {value!r}, that of batch 0 is {values[0]!r}")
