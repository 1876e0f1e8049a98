"""A whole batch as tensors, with rows in submission order. All masks follow from lengths, never from pad or EOS ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rollstream.schemas import ErrorCode

from ..errors import ArgumentError
from . import roll_and_verl_layouts as layouts
from .cat_rollouts import cat_rollouts
from .rollout_fields import RolloutFields
from .rollout_file import read_rollouts, save_rollouts
from .selection import Selection

if TYPE_CHECKING:
    import torch


class Decoder(Protocol):
    """A tokenizer."""

    def decode(self, ids: list[int], /, *, skip_special_tokens: bool) -> str:
        """The text of some ids."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RolloutBatch(RolloutFields):
    """B prompts with n completions each: R = B * n rows, the n of a prompt adjacent, as vLLM's `generate` orders them.

    With `first_k` a prompt has k rows, in the order of its samples, and `sample_index` says which these are.

    P = `prompt_len`, L = `response_len`. A row is a left-padded prompt of P columns, then a right-padded response of
    L columns. A group that failed keeps its n rows: its prompt if the worker could read it, an empty response, finish
    reason `error`, and its `GroupError` in `errors`. So does a group that was cut, with the finish reason `cut`.
    """

    @property
    def response_ids(self) -> torch.Tensor:
        """int64 (R, L): the columns of `sequences` after the prompts, a view"""
        return self.sequences[:, self.prompt_len :]

    @property
    def prompts(self) -> list[list[int]]:
        """R prompts without padding."""
        rows = zip(self.sequences[:, : self.prompt_len].tolist(), self.prompt_lengths.tolist(), strict=True)
        return [row[self.prompt_len - length :] for row, length in rows]

    @property
    def responses(self) -> list[list[int]]:
        """R responses without padding: what was sampled, with stop ids and what was put there."""
        rows = zip(self.response_ids.tolist(), self.response_lengths.tolist(), strict=True)
        return [row[:length] for row, length in rows]

    @property
    def selection(self) -> Selection | None:
        """How the lengths of what was kept and what was cut differ; None if nothing was cut.

        It is of the rows and prompts that are here: `select` and an index take theirs with them, `cat` adds up.
        """
        failed = set(self.errors)
        numbers = zip(self.group_index.tolist(), self.response_lengths.tolist(), strict=True)
        kept = [length for prompt, length in numbers if prompt not in failed]
        cut = [length for lengths in self.cut_lengths.values() for length in lengths]
        return Selection.of(kept, cut, sum(error.code == ErrorCode.NOT_NEEDED for error in self.errors.values()))

    def decode(self, tokenizer: Decoder, *, skip_special_tokens: bool = True) -> list[str]:
        """The text of each response, by a tokenizer of transformers or of tokenizers; empty for a failed row.

        Raises `ArgumentError` for what is no tokenizer.
        """
        if isinstance(tokenizer, bytes) or not callable(getattr(tokenizer, "decode", None)):
            rule = "give a tokenizer, such as transformers.AutoTokenizer.from_pretrained(FOLDER)"
            raise ArgumentError("tokenizer", tokenizer, rule)
        return [tokenizer.decode(ids, skip_special_tokens=skip_special_tokens) for ids in self.responses]

    @classmethod
    def cat(cls, batches: Iterable[RolloutBatch]) -> RolloutBatch:
        """The rows of several batches, one after the other, padded to the widest prompt, response and K.

        Prompts are numbered on, and `errors` go by these numbers. What only one of them has and cannot be padded
        (log-probs, a support, labels) and another flavour or pad id raise `RowsError`.
        """
        return cat_rollouts(cls, list(batches))

    def save(self, path: Path | str) -> None:
        """Write all of it to one file of the format safetensors. A file is at `path` only once it is whole.

        Raises `OSError`.
        """
        save_rollouts(self, Path(path))

    @classmethod
    def load(cls, path: Path | str) -> RolloutBatch:
        """What `save` wrote, with tensors on the CPU. Raises `OSError`, and `TensorFileError` for any other file."""
        return cls(**read_rollouts(Path(path)))

    def roll(self) -> dict[str, torch.Tensor]:
        """The batch in ROLL's right-padded layout, see `producer.rollouts.roll_and_verl_layouts.roll`."""
        return layouts.roll(self)

    def verl(self) -> dict[str, torch.Tensor]:
        """The batch in verl's layout: prompts padded left, responses right, see `roll_and_verl_layouts.verl`."""
        return layouts.verl(self)

    def __repr__(self) -> str:
        each = f" x {self.num_return_sequences}" if self.num_rows == len(self) * self.num_return_sequences else ""
        size = f"{self.num_rows} rows ({len(self)} prompts{each})"
        cut = sum(error.code == ErrorCode.NOT_NEEDED for error in self.errors.values())
        failed = f", {len(self.errors) - cut} failed" if len(self.errors) > cut else ""
        failed += f", {cut} cut" if cut else ""
        return f"<RolloutBatch {self.batch_id}: {size}, {self.prompt_len} + {self.response_len} columns{failed}>"
