"""The sampling mask: which ids each token was sampled from, and a trainer's log-probs over those alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollstream.schemas.errors import shown

from .errors import RowsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SamplingSupport:
    """The ids that top-k, top-p, min-p and the rest left for each token of R rows with L columns.

    Ragged, for a token may have 1 id or 144. `logits[r, j]` are those from which the token of response column j was
    sampled: of a model that read `sequences`, the columns P - 1 to P + L - 2. Give them as the sampler had them, with
    penalties and biases if the config has any; the temperature is an argument. Both functions compute in float32,
    whatever the logits' dtype, and are differentiable. The memory that they take grows with the kept ids.
    """

    ids: torch.Tensor
    """int32 (sum of `lengths`,): token by token, row by row"""
    lengths: torch.Tensor
    """int64 (R, L): how many of `ids` belong to each token; 0 where nothing was sampled"""

    def log_probs(self, logits: torch.Tensor, token_ids: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
        """Log-probs of `token_ids` (R, L) under `logits` (R, L, V) over what was kept: float32 (R, L).

        0 where nothing was sampled, whatever id is there; minus infinity for an id that was not kept. Raises
        `RowsError`.
        """
        import torch  # noqa: PLC0415 - `import rollstream` imports no torch

        if token_ids.shape != self.lengths.shape:
            raise RowsError("token_ids", f"expected {tuple(self.lengths.shape)}, got {tuple(token_ids.shape)}")
        kept = _Kept.of(self, logits, temperature)
        # A pad id may be any number, and an index outside the vocabulary would end a process on a GPU.
        tokens = token_ids.to(logits.device).masked_fill(kept.empty.view(self.lengths.shape), 0)
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < logits.shape[2]:
            problem = f"from {int(tokens.min())} to {int(tokens.max())}, and the logits have {logits.shape[2]} ids"
            raise RowsError("token_ids", problem)
        chosen = logits.gather(-1, tokens[..., None])[..., 0].float() / temperature
        same = kept.ids == tokens.flatten()[kept.place]
        there = torch.zeros(self.lengths.numel(), dtype=torch.bool, device=logits.device)
        there[kept.place[same]] = True
        outside = torch.where(kept.empty, 0.0, -math.inf)
        return torch.where(there, chosen.flatten() - kept.normalizer(), outside).view(self.lengths.shape)

    def log_softmax(self, logits: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
        """`logits` (R, L, V) as log-probs over what was kept, float32 (R, L, V): minus infinity for all other ids.

        0 everywhere in a column where nothing was sampled. Where only sampled tokens matter, `log_probs` needs no
        second array of this size. Raises `RowsError`.
        """
        import torch  # noqa: PLC0415 - as above

        kept = _Kept.of(self, logits, temperature)
        log_probs = torch.full(logits.shape, -math.inf, device=logits.device)
        log_probs[kept.empty.view(self.lengths.shape)] = 0.0
        return log_probs.index_put_(kept.where, kept.logits - kept.normalizer()[kept.place])

    def of(self, row: int, column: int) -> list[int]:
        """The ids that one token was sampled from."""
        flat = self.lengths.flatten()
        place = row * self.lengths.shape[1] + column
        start = int(flat[:place].sum())
        return self.ids[start : start + int(flat[place])].tolist()

    def take(self, rows: torch.Tensor | Sequence[int] | slice) -> SamplingSupport:
        """The support of some rows, in the order of `rows` (numbers, a mask, or a slice): for a minibatch.

        Raises `RowsError`.
        """
        import torch  # noqa: PLC0415 - as above

        numbers = _row_numbers(rows, len(self.lengths)).to(self.lengths.device)
        ends = [0, *self.lengths.sum(1).cumsum(0).tolist()]
        picked = [self.ids[ends[row] : ends[row + 1]] for row in numbers.tolist()]
        return SamplingSupport(ids=torch.cat([self.ids[:0], *picked]), lengths=self.lengths[numbers])

    def to(self, device: torch.device | str) -> SamplingSupport:
        """The same on another device."""
        return SamplingSupport(ids=self.ids.to(device), lengths=self.lengths.to(device))

    @classmethod
    def cat(cls, supports: Sequence[SamplingSupport]) -> SamplingSupport:
        """The rows of all of them, one after the other, as wide as the widest."""
        import torch  # noqa: PLC0415 - as above
        from torch.nn.functional import pad  # noqa: PLC0415

        width = max(one.lengths.shape[1] for one in supports)
        lengths = [pad(one.lengths, (0, width - one.lengths.shape[1])) for one in supports]
        return cls(ids=torch.cat([one.ids for one in supports]), lengths=torch.cat(lengths))

    def __repr__(self) -> str:
        return f"<SamplingSupport {tuple(self.lengths.shape)}: {self.ids.numel()} ids>"


def _row_numbers(rows: torch.Tensor | Sequence[int] | slice, most: int) -> torch.Tensor:
    """int64, each within 0 and `most - 1`. Raises `RowsError`."""
    import torch  # noqa: PLC0415 - as above

    if isinstance(rows, slice):
        return torch.tensor(range(most)[rows], dtype=torch.int64)
    try:
        given = torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError):  # torch's own words for what is no list of numbers
        raise RowsError("rows", f"give numbers of rows, a mask or a slice, not {shown(rows)}") from None
    if given.dtype == torch.bool and given.shape == (most,):
        return given.nonzero()[:, 0]
    if given.ndim != 1 or given.dtype == torch.bool or (given.numel() and given.is_floating_point()):
        needed = f"expected numbers of {most} rows, or {most} booleans"
        raise RowsError("rows", f"{needed}, got {str(given.dtype).removeprefix('torch.')} {tuple(given.shape)}")
    numbers = given.long()
    if numbers.numel() and not -most <= int(numbers.min()) <= int(numbers.max()) < most:
        raise RowsError("rows", f"from {int(numbers.min())} to {int(numbers.max())}, and there are {most}")
    return torch.where(numbers < 0, numbers + most, numbers)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Kept:
    """The logits of the kept ids, one after the other, and which token each belongs to."""

    logits: torch.Tensor
    """float32 (T,)"""
    ids: torch.Tensor
    """int64 (T,)"""
    place: torch.Tensor
    """int64 (T,): the token's number, row by row"""
    where: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """Row, column and id of each"""
    empty: torch.Tensor
    """bool (R * L,): whether the token has none"""

    @classmethod
    def of(cls, support: SamplingSupport, logits: torch.Tensor, temperature: float) -> _Kept:
        """Raises `RowsError` for logits of another shape or vocabulary."""
        import torch  # noqa: PLC0415 - as above

        shape = tuple(support.lengths.shape)
        if logits.ndim != 3 or tuple(logits.shape[:2]) != shape:
            raise RowsError("logits", f"expected {shape} and the vocabulary, got {tuple(logits.shape)}")
        if not 0 < temperature < math.inf:
            raise RowsError("temperature", f"must be above 0, got {temperature}")
        ids, lengths = support.ids.to(logits.device).long(), support.lengths.to(logits.device).flatten()
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < logits.shape[2]:
            problem = f"has {logits.shape[2]} ids, and {int(ids.min())} to {int(ids.max())} were sampled from"
            raise RowsError("logits' vocabulary", problem)
        place = torch.arange(lengths.numel(), device=logits.device).repeat_interleave(lengths)
        where = place // max(shape[1], 1), place % max(shape[1], 1), ids
        kept = logits[where].float() / temperature
        return cls(logits=kept, ids=ids, place=place, where=where, empty=lengths == 0)

    def normalizer(self) -> torch.Tensor:
        """float32 (R * L,): log of the sum of exp of each token's kept logits; 0 for a token that has none."""
        import torch  # noqa: PLC0415 - as above

        none = torch.full(self.empty.shape, -math.inf, device=self.logits.device)
        largest = none.scatter_reduce(0, self.place, self.logits.detach(), "amax")
        largest = largest.masked_fill(self.empty, 0.0)
        sums = self.empty.float().index_add(0, self.place, (self.logits - largest[self.place]).exp())
        return sums.log() + largest
