"""What the tensors of a batch can do, whatever its rows hold: be picked by prompt or mask, moved, kept in a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .errors import RowsError
from .support import SamplingSupport

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RowBatch:
    """A frozen dataclass of tensors with R rows, those of a prompt adjacent. Every method gives a batch of its own.

    Its length is the number of its prompts; an index and a loop give the batch of one prompt. Prompts are numbered from
    0 in every batch: what `select` and an index leave is numbered again, errors too. A `GroupError` still says which
    number its prompt had in the batch that was submitted.
    """

    row_tuples: ClassVar[tuple[str, ...]]
    """Its fields that are tuples of R, or empty where no row has anything there."""

    @property
    def prompt_numbers(self) -> torch.Tensor:
        """int64 (R,), rising by 0 or 1: each row's prompt."""
        raise NotImplementedError

    def numbered(self, prompts: list[int], numbers: torch.Tensor) -> dict[str, Any]:
        """The fields that say which prompt is which, where only `prompts` are left; `numbers` are those of the rows."""
        raise NotImplementedError

    @property
    def num_rows(self) -> int:
        """R"""
        return self.prompt_numbers.shape[0]

    def rows(self, prompt: int) -> slice:
        """Which rows are a prompt's: `rollouts.sequences[rollouts.rows(3)]`. Raises `IndexError`."""
        number = self._number(prompt)
        start = int((self.prompt_numbers < number).sum())
        return slice(start, start + int((self.prompt_numbers == number).sum()))

    def select(self, mask: Any) -> Self:
        """The rows, or the prompts, where `mask` is true: one boolean for each row, or one for each prompt.

        A prompt of which no row is left is gone. Widths stay. Raises `RowsError`.
        """
        import torch  # noqa: PLC0415 - `import rollstream` imports no torch

        chosen = torch.as_tensor(mask)
        if chosen.dtype != torch.bool or chosen.ndim != 1 or len(chosen) not in (self.num_rows, len(self)):
            needed = f"expected booleans for {self.num_rows} rows or {len(self)} prompts"
            raise RowsError("mask", f"{needed}, got {str(chosen.dtype).removeprefix('torch.')} {tuple(chosen.shape)}")
        chosen = chosen.to(self.prompt_numbers.device)
        if len(chosen) != self.num_rows:
            chosen = chosen[self.prompt_numbers]
        return self._taken(chosen.nonzero()[:, 0])

    def to(self, device: torch.device | str) -> Self:
        """The same with all tensors on another device."""
        import torch  # noqa: PLC0415 - as above

        movable = torch.Tensor | SamplingSupport
        return replace(self, **{name: one.to(device) for name, one in self._fields() if isinstance(one, movable)})

    def to_dict(self) -> dict[str, Any]:
        """What there is of each row, by name: tensors of R rows, and lists of R; among them the support's ids."""
        import torch  # noqa: PLC0415 - as above

        given: dict[str, Any] = {}
        for name, value in self._fields():
            if isinstance(value, torch.Tensor):
                given[name] = value
            elif isinstance(value, SamplingSupport):
                given["support_lengths"] = value.lengths
                given["support_ids"] = list(torch.split(value.ids, value.lengths.sum(1).tolist()))
            elif name in self.row_tuples and (value or not self.num_rows):
                given[name] = list(value)
        return given

    def _fields(self) -> Iterator[tuple[str, Any]]:
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def _number(self, prompt: int) -> int:
        if not -len(self) <= index(prompt) < len(self):
            raise IndexError(f"prompt {prompt} of {len(self)}")
        return index(prompt) % len(self)

    def _taken(self, rows: torch.Tensor) -> Self:
        import torch  # noqa: PLC0415 - as above

        prompts, numbers = torch.unique_consecutive(self.prompt_numbers[rows], return_inverse=True)
        listed = rows.tolist()
        taken: dict[str, Any] = {}
        for name, value in self._fields():
            if isinstance(value, torch.Tensor):
                taken[name] = value[rows]
            elif isinstance(value, SamplingSupport):
                taken[name] = value.take(rows)
            elif name in self.row_tuples:
                taken[name] = tuple(value[row] for row in listed) if value else value
        return replace(self, **taken | self.numbered(prompts.tolist(), numbers))

    def __len__(self) -> int:
        return int(self.prompt_numbers[-1]) + 1 if self.num_rows else 0

    def __getitem__(self, prompt: int | slice) -> Self:
        if isinstance(prompt, slice):
            picked = range(len(self))[prompt]
            if picked.step != 1:
                raise RowsError("prompts", f"are taken in their order, without a step; got a step of {picked.step}")
        else:
            picked = range(number := self._number(prompt), number + 1)
        numbers = self.prompt_numbers
        return self._taken(((numbers >= picked.start) & (numbers < picked.stop)).nonzero()[:, 0])

    def __iter__(self) -> Iterator[Self]:
        return (self[prompt] for prompt in range(len(self)))
