"""How completions that were kept and samples that were cut differ in length: the first to end are mostly short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths of some completions, in tokens."""

    count: int
    least: int
    lower_quartile: float
    median: float
    upper_quartile: float
    most: int
    mean: float

    @classmethod
    def of(cls, lengths: Sequence[int] | NDArray[np.int64]) -> Self | None:
        """None for no lengths."""
        if not len(lengths):
            return None
        least, lower, median, upper, most = np.percentile(lengths, [0, 25, 50, 75, 100]).tolist()
        return cls(
            count=len(lengths),
            least=int(least),
            lower_quartile=lower,
            median=median,
            upper_quartile=upper,
            most=int(most),
            mean=float(np.mean(lengths)),
        )

    def __str__(self) -> str:
        between = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{self.count} of {between} tokens, {self.mean:.1f} on average and {self.median:g} in the median"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was kept of a batch and what was cut, because enough had ended. `print` shows it as one line.

    A sample that was cut while it ran counts with the tokens that it had, and at least as the longest kept one of its
    prompt. It would have become longer, so the difference is at least this large. One that ended in the same step as
    the last that was kept is among the cut too, with all its tokens.
    """

    kept: Lengths | None
    """Lengths of the completions that are in the batch; None if there are none."""
    cut: Lengths | None
    """How long the samples that `first_k` left out are at least, without `unstarted`; None if there are none."""
    unstarted: int
    """Samples that `first_k` left out before they had a token: how long they would be, nobody knows."""
    cut_groups: int
    """Prompts that were cut as a whole; how long their samples had become is not known."""
    shorter: float | None
    """In how many of all pairs of a kept completion and a cut sample the kept one is the shorter, 0 to 1.

    A pair of equal lengths counts as half: the cut sample may have ended too, in the same step. About 0.5 is no
    preference, and more is one for the short; samples that were cut while they ran would have made it more. None unless
    there are both.
    """

    @classmethod
    def of(cls, kept: Sequence[int], cut: Sequence[int], cut_groups: int) -> Self | None:
        """The report for these lengths, as `cut_lengths` has those of `cut`; None if nothing was cut."""
        if not cut and not cut_groups:
            return None
        begun = [length for length in cut if length]
        return cls(
            kept=Lengths.of(kept),
            cut=Lengths.of(begun),
            unstarted=len(cut) - len(begun),
            cut_groups=cut_groups,
            shorter=_how_often_shorter(np.asarray(kept), np.sort(begun)) if kept and begun else None,
        )

    def __str__(self) -> str:
        told = [f"kept {self.kept or 'no completions'}"]
        if self.cut is not None:
            told.append(f"cut {self.cut}")
        if self.unstarted:
            told.append(f"cut {self.unstarted} before the first token")
        if self.cut_groups:
            told.append(f"cut {self.cut_groups} {'group' if self.cut_groups == 1 else 'groups'} of unknown lengths")
        if self.shorter is not None:
            told.append(f"in {self.shorter:.0%} of all pairs the kept one is the shorter (50% is no preference)")
        return "; ".join(told)


def _how_often_shorter(kept: NDArray[np.int64], cut: NDArray[np.int64]) -> float:
    """`cut` is sorted. Equal lengths count as half."""
    not_longer, below = np.searchsorted(cut, kept, side="right"), np.searchsorted(cut, kept, side="left")
    return float(np.mean(len(cut) - (not_longer + below) / 2) / len(cut))
