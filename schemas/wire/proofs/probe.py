"""A probe: a few rows of text with the trainer's own log-probs, which the right weights reproduce and others do not."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..fields import Count
from ..messages import Message
from ..options import Options
from ..tensors import Tensor, expect

MAX_ROWS = 64
MAX_TOKENS = 8192
"""Most tokens of a probe, all rows together: each announcement carries its probe, and each swap scores it."""
MIN_SCORED = 16
"""Fewest log-probs that are taken for a proof: wrong weights may come close to a few of them."""

NOT_REPRODUCED = "does not reproduce its probe"
"""These words are in the report of a worker whose log-probs were too far off."""
UNPROVABLE = "cannot be proven here"
"""These are in that of a worker which cannot score the probe at all, whatever the weights are."""
MeanNats = Annotated[float, Field(gt=0, le=1)]
"""Above these bounds a comparison says nothing: wrong weights pass it too."""
LargestNats = Annotated[float, Field(gt=0, le=10)]


class Tolerance(Options):
    """How far a worker's log-probs may be from the trainer's, in nats. Raises `OptionError`."""

    mean: MeanNats
    """Mean of the absolute differences."""
    largest: LargestNats
    """The largest of them."""


TOLERANCES: dict[str, Tolerance] = {
    "float32": Tolerance(mean=0.002, largest=0.05),
    "float16": Tolerance(mean=0.02, largest=0.5),
    "bfloat16": Tolerance(mean=0.1, largest=2.0),
}
"""By the dtype in which the worker computes, for a probe that gives none."""


def coarsest(dtypes: Iterable[str]) -> str:
    """That with the widest tolerance. An unknown one is trusted no more than float32, which is also that of none."""
    known = [dtype for dtype in dtypes if dtype in TOLERANCES]
    return max(known, key=lambda dtype: TOLERANCES[dtype].mean, default="float32")


class Probe(Message):
    """Travels with a policy version, or in a file. Log-probs are the model's own: temperature 1, no truncation."""

    kind: Literal["probe"] = "probe"
    token_ids: Tensor
    """int32 (T,): the rows, one after the other."""
    row_lengths: Tensor
    """int32 (R,): 2 or more each; they add up to T."""
    logprobs: Tensor
    """float32 (T - R,): the log-prob of each token given those before it, for all tokens but the first of each row."""
    vocab_size: Count
    """That of the trainer's model; ids lie below it."""
    tolerance: Tolerance | None = None
    """None: see `TOLERANCES`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        expect("token_ids", self.token_ids, "int32", 1)
        expect("row_lengths", self.row_lengths, "int32", 1)
        expect("logprobs", self.logprobs, "float32", 1)
        rows, tokens = self.row_lengths.shape[0], self.token_ids.shape[0]
        if not (1 <= rows <= MAX_ROWS and tokens <= MAX_TOKENS):
            raise ValueError(f"a probe has 1 to {MAX_ROWS} rows and at most {MAX_TOKENS} tokens, not {rows}, {tokens}")
        lengths = self.row_lengths.numpy().tolist()
        if min(lengths) < 2 or sum(lengths) != tokens or self.logprobs.shape[0] != tokens - rows:
            raise ValueError("row_lengths, each 2 or more, do not fit token_ids and logprobs")
        ids, logprobs = self.token_ids.numpy(), self.logprobs.numpy()
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise ValueError(f"ids from {ids.min()} to {ids.max()}, for a vocabulary of {self.vocab_size}")
        if not np.isfinite(logprobs).all() or logprobs.max() > 1e-3:  # rounding may give a little more than 0
            raise ValueError("logprobs must be finite and not above 0")
        return self

    @property
    def is_enough(self) -> bool:
        """Whether it compares so much that it proves anything."""
        return self.logprobs.shape[0] >= MIN_SCORED

    @cached_property
    def rows(self) -> list[tuple[list[int], NDArray[np.float32]]]:
        """Each row's ids and the log-probs of all of its tokens but the first."""
        lengths = self.row_lengths.numpy()
        ids = np.split(self.token_ids.numpy(), np.cumsum(lengths)[:-1])
        logprobs = np.split(self.logprobs.numpy(), np.cumsum(lengths - 1)[:-1])
        return [(row.tolist(), known) for row, known in zip(ids, logprobs, strict=True)]
