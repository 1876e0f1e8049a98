"""Score jobs: rows of token ids, and how likely each token is under the worker's weights; a group is a row."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..generation.generation_config import MAX_CANDIDATES
from .fields import (
    MAX_GROUPS_PER_JOB,
    AdapterName,
    BatchId,
    Count,
    Index,
    Seconds,
    Shown,
    Traceparent,
    VersionSpan,
)
from .images import Images, ImageSpans, check_images, check_spans
from .messages import Batch, Lineage, Message
from .requires import Requires
from .tensors import Tensor, expect, expect_shape, expect_within


class ScoreDescription(Message):
    """Describes a batch of rows to score, as `Batch` does prompts. It is kept in the batch's ledger."""

    kind: Literal["score_batch"] = "score_batch"
    batch_id: BatchId
    num_groups: Count
    """Rows."""
    num_jobs: Count
    width: Index
    """L: columns of the scores."""
    offsets: Tensor
    """int32 (B,): the column of each row's first score."""
    columns: Tensor | None = None
    """int32 (B,): how many tokens of each row are scored; None if the description does not say."""
    tokens_per_group: Index = 0
    """As so many tokens each row counts in its entry: the mean of all rows, rounded up."""
    top_logprobs: int = Field(default=0, ge=0, le=MAX_CANDIDATES)
    adapter: AdapterName | None = None
    submitted_at: float
    """Unix seconds, the producer's clock."""
    lineage: Lineage = ()
    """In a replay: the batches that it repeats, each with the entry of its first job."""
    traceparent: Traceparent | None = None
    """W3C trace context of the submit; no part of the content digest."""

    @model_validator(mode="after")
    def _numbers_agree(self) -> Self:
        if not self.num_jobs <= self.num_groups <= MAX_GROUPS_PER_JOB * self.num_jobs:
            raise ValueError(f"{self.num_groups} rows in {self.num_jobs} jobs of 1 to {MAX_GROUPS_PER_JOB}")
        expect_shape("offsets", self.offsets, "int32", (self.num_groups,))
        expect_within("offsets", self.offsets, self.width)
        if self.columns is not None:
            expect_shape("columns", self.columns, "int32", (self.num_groups,))
            columns = self.columns.numpy().astype(np.int64)
            if columns.min() < 0 or (columns + self.offsets.numpy()).max() > self.width:
                raise ValueError(f"columns must lie within 0 and {self.width}, each row's offset added")
        return self

    @property
    def replay_of(self) -> str | None:
        """The batch that this one replays; None if it replays none."""
        return self.lineage[-1].batch_id if self.lineage else None


Description: TypeAlias = Batch | ScoreDescription
"""What a ledger says of its batch, told apart by `kind`."""


class ScoreJob(Message):
    """A slice of the rows of a batch: the unit of delivery and retry. What it shares with `Job` is called the same."""

    kind: Literal["score"] = "score"
    batch_id: BatchId
    job: Index
    first_group: Index
    num_groups: Count
    """Rows of the whole batch, not of this job."""
    token_ids: Tensor
    """int32 (sum of lengths,): the rows, one after the other, without padding."""
    row_lengths: Tensor
    """int32 (rows of this job,); 0 for a row that has nothing to score, which is answered with an error."""
    firsts: Tensor
    """int32 (rows of this job,): the token of each row from which on it is scored, 1 to its length - 1; else 0."""
    top_logprobs: int = Field(default=0, ge=0, le=MAX_CANDIDATES)
    """How many of the likeliest ids come with each token."""
    adapter: AdapterName | None = None
    submitted_at: float
    queue_deadline_s: Seconds | None = None
    run_deadline_s: Seconds | None = None
    min_policy_version: Index = 0
    max_staleness: Index | None = None
    lineage: Lineage = ()
    requires: Requires = ()
    images: Annotated[tuple[Images, ...], Field(max_length=MAX_GROUPS_PER_JOB)] = ()
    """The images of each row; empty: no row has any."""
    image_spans: Annotated[tuple[ImageSpans, ...], Field(max_length=MAX_GROUPS_PER_JOB)] = ()
    """Where the images lie in each row: such a row is expanded, and a worker that expands it again gets the same ids.
    A row that has images and no spans has placeholders, all of them before its first scored token."""

    @model_validator(mode="after")
    def _rows_agree(self) -> Self:
        expect("token_ids", self.token_ids, "int32", 1)
        expect("row_lengths", self.row_lengths, "int32", 1)
        if not 1 <= (rows := self.row_lengths.shape[0]) <= MAX_GROUPS_PER_JOB:
            raise ValueError(f"a job has 1 to {MAX_GROUPS_PER_JOB} rows, not {rows}")
        expect_shape("firsts", self.firsts, "int32", (rows,))
        lengths, firsts = self.row_lengths.numpy(), self.firsts.numpy()
        if lengths.min() < 0 or int(lengths.sum(dtype=np.int64)) != self.token_ids.shape[0]:
            raise ValueError("row_lengths do not add up to token_ids")
        if ((firsts < 1) | (firsts >= lengths))[lengths > 0].any() or firsts[lengths == 0].any():
            raise ValueError("firsts must lie within 1 and the row's length - 1, and be 0 for an empty row")
        if self.first_group + rows > self.num_groups:
            raise ValueError("first_group + rows exceeds num_groups")
        self._check_images(lengths.tolist())
        return self

    def _check_images(self, lengths: list[int]) -> None:
        check_images("images", self.images, len(lengths))
        check_images("image_spans", self.image_spans, len(self.images))
        for images, spans, length in zip(self.images, self.image_spans, lengths, strict=False):
            if spans:
                check_spans(images, spans, length)

    @property
    def groups(self) -> range:
        """Row numbers of this job, counted over the batch."""
        return range(self.first_group, self.first_group + self.row_lengths.shape[0])

    @cached_property
    def rows(self) -> list[NDArray[np.int32]]:
        """One int32 array for each row."""
        return np.split(self.token_ids.numpy(), np.cumsum(self.row_lengths.numpy())[:-1])


class GroupScores(Message):
    """The scores of one row: the model's own log-probs (`raw`) at temperature 1."""

    kind: Literal["scores"] = "scores"
    batch_id: BatchId
    group: Index
    """The row's number in the batch."""
    logprobs: Tensor
    """float32 (L,): that of each token of the row from `first` on; finite."""
    top_token_ids: Tensor | None = None
    """int32 (L, K): the K likeliest at each position, the likeliest first."""
    top_logprobs: Tensor | None = None
    """float32 (L, K), the log-probs of `top_token_ids`."""
    policy_version: Index
    """The one version whose weights gave all of them."""
    adapter: AdapterName | None = None
    worker: Shown
    delivery: Count = 1
    """Number of the delivery of the job that answered."""
    queued_s: float
    """Seconds between submit and admission, by two machines' clocks."""
    score_s: float
    trace: Traceparent | None = None
    """W3C trace context of the worker's span."""

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        expect("logprobs", self.logprobs, "float32", 1)
        if not np.isfinite(self.logprobs.numpy()).all():
            raise ValueError("logprobs must be finite")
        if (self.top_token_ids is None) != (self.top_logprobs is None):
            raise ValueError("top_token_ids and top_logprobs come together")
        if self.top_token_ids is not None:
            expect("top_token_ids", self.top_token_ids, "int32", 2)
            columns, k = self.top_token_ids.shape
            if columns != len(self) or not 1 <= k <= MAX_CANDIDATES:
                raise ValueError(f"top_token_ids: expected ({len(self)}, 1 to {MAX_CANDIDATES}), got {(columns, k)}")
            expect_shape("top_logprobs", self.top_logprobs, "float32", (columns, k))
            expect_within("top_token_ids", self.top_token_ids)
        return self

    def __len__(self) -> int:
        return self.logprobs.shape[0]

    @property
    def version_spans(self) -> tuple[tuple[VersionSpan, ...], ...]:
        """Which version gave how many scores, as `GroupResult.version_spans` says it of completions."""
        return (((self.policy_version, len(self)),),)
