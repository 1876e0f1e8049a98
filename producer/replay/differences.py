"""What `--verify` found: how much was compared, what differs, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.golden.comparison import FEWEST_FOR_MEAN
from rollstream.schemas.wire.proofs.probe import TOLERANCES, coarsest

POLICY_VERSION = "policy version"
RESUMED = "resumed after tokens"
CUT = "outcome"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs between a stored answer and the replayed one."""

    group: int
    """The group's number in the original batch."""
    new_group: int
    """The group's number in the replay."""
    what: str
    """`answer` (only one is an error), `error code`, `prompt's token`, `prompt's length`, `completions` (their number),
    `policy version`, `resumed after tokens`, `outcome` (kept or cut), `token`, `length`, `finish reason`; of a row
    `scored tokens` (their number), `log-prob`, `candidate`."""
    stored: object
    replayed: object
    sample: int | None = None
    position: int | None = None
    """The token's position in the completion, in the prompt, or among the scored tokens of the row."""

    def __str__(self) -> str:
        group = f"group {self.group}" + (f" ({self.new_group} in the replay)" if self.new_group != self.group else "")
        sample = "" if self.sample is None else f", sample {self.sample}"
        position = "" if self.position is None else f", position {self.position}"
        return f"{group}{sample}{position}: {self.what} {self.stored} stored, {self.replayed} replayed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """How far log-probs are apart, and may be, in nats."""

    dtype: str
    """The coarsest in which the workers compute that gave them."""
    tokens: int
    mean: float
    largest: float
    mean_allowed: float
    largest_allowed: float

    @classmethod
    def of(cls, rows: Iterable[NDArray[np.float64]], dtypes: Iterable[str]) -> Self | None:
        """From the absolute differences in each row; None if there is no row."""
        sums = [(len(row), float(row.sum()), float(row.max(initial=0.0))) for row in rows]
        if not sums:
            return None
        tokens, dtype = sum(count for count, _, _ in sums), coarsest(dtypes)
        return cls(
            dtype=dtype,
            tokens=tokens,
            mean=sum(total for _, total, _ in sums) / max(1, tokens),
            largest=max(largest for _, _, largest in sums),
            mean_allowed=TOLERANCES[dtype].mean,
            largest_allowed=TOLERANCES[dtype].largest,
        )

    @property
    def is_off(self) -> bool:
        """Whether that is more on average than rounding explains."""
        return self.tokens >= FEWEST_FOR_MEAN and self.mean > self.mean_allowed

    def __str__(self) -> str:
        far = f"log-probs are {self.mean:.2g} nats apart on average and {self.largest:.2g} at most"
        return f"{far}, {self.mean_allowed:g} and {self.largest_allowed:g} allowed ({self.dtype})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How much was compared, and what differs."""

    groups: int
    """All of the replay."""
    completions: int
    """Those that were compared, up to where a later delivery went on with them."""
    tokens: int
    """Those that were compared, which both runs have: of completions, or scored ones."""
    differing_groups: int
    first: Difference | None
    """The first difference in the order of the replay's groups, then samples, then positions."""
    resumed: int = 0
    """Completions that a later delivery went on with in one of the two runs: another draw than an undisturbed one from
    there on, so no more can be compared, and they do not count as differing. Greedy ones can."""
    first_resumed: Difference | None = None
    resumed_apart: int = 0
    """Those of `resumed` that differ earlier: they were gone on with more than once, or came out otherwise."""
    first_resumed_apart: Difference | None = None
    cut_once: int = 0
    """Samples and groups that one of the two runs has and the other has cut, which had enough: which end first is a
    race. They cannot be compared, and do not count as differing."""
    first_cut_once: Difference | None = None
    other_versions: int = 0
    """Groups that another policy version answered: they cannot be compared, and do not count as differing."""
    first_other: Difference | None = None
    apart: Apart | None = None
    """How far the scores of rows are apart; None if there are none."""

    @property
    def identical(self) -> bool:
        """True when every group could be compared and none differs; scores may differ as two engines do."""
        uncompared = (self.first_other, self.first_resumed, self.first_cut_once)
        return self.first is None and uncompared == (None,) * 3 and not (self.apart and self.apart.is_off)
