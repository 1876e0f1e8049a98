"""Turns of a conversation: which earlier completion a group goes on from, and who may wait for whose prefix cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..keys import check_name
from .fields import MAX_GROUPS_PER_JOB, BatchId, Index
from .tensors import Tensor, expect, expect_within

MOST_TURNS = 10_000
"""Most completions of earlier turns in one prompt."""
SESSION_WAIT_S = 2.0
LONGEST_SESSION_WAIT_S = 60.0

SessionName = Annotated[str, AfterValidator(lambda value: check_name("session", value))]
SessionWait = Annotated[float, Field(ge=0, le=LONGEST_SESSION_WAIT_S)]


class Turn(BaseModel):
    """One completion of an earlier batch. What comes next in its conversation is submitted with `continue_of`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    batch_id: BatchId
    group: Index
    sample: Index
    """The completion's number among the prompt's samples, as `Completion.sample` says it; of beams the rank."""

    def __str__(self) -> str:
        return f"sample {self.sample} of group {self.group} of batch {self.batch_id!r}"


Turns = Annotated[tuple[Turn | None, ...], Field(max_length=MAX_GROUPS_PER_JOB)]
"""One for each group of a job, None where a group begins a conversation; empty: all of them do."""


def check_turns(turns: Sequence[Turn | None], groups: int) -> None:
    """Raises `ValueError` unless there is one for each group, or none at all."""
    if turns and len(turns) != groups:
        raise ValueError(f"continue_of has {len(turns)} items for {groups} groups")


def check_earlier_completions(spans: Tensor | None, prompt: Tensor, continued: Turn | None) -> None:
    """Raises `ValueError` unless the spans lie in `prompt`, one after the other, and something follows the last.

    A group that goes on from nothing has none.
    """
    if spans is None or continued is None:
        if spans is not None or continued is not None:
            raise ValueError("earlier_completions and continued come together")
        return
    expect("earlier_completions", spans, "int32", 2)
    expect_within("earlier_completions", spans)
    turns, columns = spans.shape
    if columns != 2 or not 1 <= turns <= MOST_TURNS:
        raise ValueError(f"earlier_completions: expected (1 to {MOST_TURNS}, 2), got {spans.shape}")
    starts, lengths = spans.numpy().astype(np.int64).T
    ends = starts + lengths
    if (starts[1:] < ends[:-1]).any() or ends[-1] >= prompt.shape[0]:
        raise ValueError(f"earlier_completions overlap, or do not end before the prompt of {prompt.shape[0]} ids does")
