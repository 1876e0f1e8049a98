"""The scores of a whole batch as tensors, with rows in submission order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rollstream.schemas import GroupError, GroupScores, ScoreDescription

from ..rollouts.padded import cat_padded, check_kind, one_of
from ..rollouts.row_batch import RowBatch
from .read_scores import ScoreAnswer
from .score_file import read_scores_file, save_scores

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ScoreBatch(RowBatch):
    """How likely the tokens of B rows are: the model's own log-probs (`raw`) at temperature 1.

    Column j is column `first + j` of the array that was given, for rollouts that of the response: L columns. Where
    nothing was scored all values are 0. A row that failed has its `GroupError` in `errors`.
    """

    batch_id: str
    log_probs: torch.Tensor
    """float32 (B, L)"""
    scored_mask: torch.Tensor
    """int64 (B, L), 1 where a token was scored"""
    top_token_ids: torch.Tensor | None
    """int64 (B, L, K): the K = `top_logprobs` likeliest ids at each column, the likeliest first; None unless asked
    for"""
    top_log_probs: torch.Tensor | None
    """float32 (B, L, K): their log-probs"""
    versions: torch.Tensor
    """int64 (B,): the one policy version whose weights scored the row; -1 where it failed"""
    adapter: str | None
    errors: dict[int, GroupError]
    """Failed rows by their number."""

    row_tuples: ClassVar[tuple[str, ...]] = ()

    @property
    def prompt_numbers(self) -> torch.Tensor:
        """int64 (B,): each row is a prompt of its own."""
        import torch  # noqa: PLC0415 - a producer that only submits needs no torch

        return torch.arange(self.log_probs.shape[0], device=self.log_probs.device)

    def numbered(self, prompts: list[int], numbers: torch.Tensor) -> dict[str, Any]:  # noqa: ARG002 - none is kept
        """See `RowBatch`."""
        return {"errors": {row: self.errors[old] for row, old in enumerate(prompts) if old in self.errors}}

    @classmethod
    def cat(cls, batches: Iterable[ScoreBatch]) -> ScoreBatch:
        """The rows of several batches, one after the other, padded to the widest; `errors` go by the rows' numbers.

        Raises `RowsError` for other kinds of batches, and where only some have candidates, or K or the adapter differs.
        """
        given = list(batches)
        check_kind(ScoreBatch, given)
        one_of("adapter", [one.adapter for one in given])
        one_of("top_logprobs", [None if one.top_token_ids is None else one.top_token_ids.shape[2] for one in given])
        firsts = accumulate((len(one) for one in given), initial=0)
        names = ("log_probs", "scored_mask", "versions", "top_token_ids", "top_log_probs")
        tensors = {name: [getattr(one, name) for one in given] for name in names if getattr(given[0], name) is not None}
        joined: dict[str, Any] = {name: cat_padded(values, 0) for name, values in tensors.items()}
        return replace(
            given[0],
            batch_id="+".join(dict.fromkeys(one.batch_id for one in given)),
            errors={first + row: e for first, one in zip(firsts, given, strict=False) for row, e in one.errors.items()},
            **joined,
        )

    def save(self, path: Path | str) -> None:
        """Write all of it to one file of the format safetensors. A file is at `path` only once it is whole.

        Raises `OSError`.
        """
        save_scores(Path(path), self.to_dict(), batch_id=self.batch_id, adapter=self.adapter, errors=self.errors)

    @classmethod
    def load(cls, path: Path | str) -> ScoreBatch:
        """What `save` wrote, with tensors on the CPU. Raises `OSError`, and `TensorFileError` for any other file."""
        return cls(**read_scores_file(Path(path)))

    def __repr__(self) -> str:
        failed = f", {len(self.errors)} failed" if self.errors else ""
        columns = self.log_probs.shape[1]
        top = "" if self.top_token_ids is None else f", {self.top_token_ids.shape[2]} candidates"
        return f"<ScoreBatch {self.batch_id}: {len(self)} rows, {columns} columns{top}{failed}>"


def assemble(batch: ScoreDescription, answers: Mapping[int, ScoreAnswer]) -> ScoreBatch:
    """Make a `ScoreBatch` from an answer to every row of `batch`. Pure; needs torch."""
    from torch import from_numpy  # noqa: PLC0415 - a producer that only submits needs no torch

    shape, k, offsets = (batch.num_groups, batch.width), batch.top_logprobs, batch.offsets.numpy()
    log_probs, mask = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    top_ids = np.zeros((*shape, k), np.int64) if k else None
    top_log_probs = np.zeros((*shape, k), np.float32) if k else None
    versions = np.full(batch.num_groups, -1, np.int64)
    for row, answer in answers.items():
        if not isinstance(answer, GroupScores):
            continue
        where = row, slice(int(offsets[row]), int(offsets[row]) + len(answer))
        log_probs[where], mask[where], versions[row] = answer.logprobs.numpy(), 1, answer.policy_version
        if top_ids is not None and answer.top_token_ids is not None:
            top_ids[where] = answer.top_token_ids.numpy()
        if top_log_probs is not None and answer.top_logprobs is not None:
            top_log_probs[where] = answer.top_logprobs.numpy()
    return ScoreBatch(
        batch_id=batch.batch_id,
        log_probs=from_numpy(log_probs),
        scored_mask=from_numpy(mask),
        top_token_ids=None if top_ids is None else from_numpy(top_ids),
        top_log_probs=None if top_log_probs is None else from_numpy(top_log_probs),
        versions=from_numpy(versions),
        adapter=batch.adapter,
        errors={row: answer for row, answer in sorted(answers.items()) if isinstance(answer, GroupError)},
    )
