"""Messages that cross Redis: frozen and strict. A new field needs a default; defaults and types never change."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..generation.generation_config import GenerationConfig
from .fields import MAX_GROUPS_PER_JOB, AdapterName, BatchId, Count, EntryIdText, Index, Seconds, Shown, Traceparent
from .images import Images, check_images
from .requires import Requires
from .shares import check_share, shares_of
from .tensors import Tensor, expect, expect_shape
from .turns import SESSION_WAIT_S, SessionName, SessionWait, Turns, check_turns


class Message(BaseModel):
    """Base of all messages. Readers ignore fields they do not know; a field at its default is not sent."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    VERSION: ClassVar[int] = 1
    v: Literal[1] = 1


class Origin(BaseModel):
    """Where a replayed job came from: an entry of the jobs stream, and the batch that it belonged to."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    batch_id: BatchId
    entry_id: EntryIdText


Lineage = Annotated[tuple[Origin, ...], Field(max_length=100)]
"""What a replay repeats, the oldest first: empty for a first run, then one `Origin` for each replay."""


class Batch(Message):
    """Describes a batch. It is kept in the batch's ledger, so that another process can attach. One per submit."""

    kind: Literal["batch"] = "batch"
    batch_id: BatchId
    num_groups: Count
    num_jobs: Count
    prompt_width: Index
    """Columns that prompts are padded to: the width of the submitted array, or the longest ragged prompt."""
    config: GenerationConfig
    adapter: AdapterName | None = None
    submitted_at: float
    """Unix seconds, the producer's clock."""
    lineage: Lineage = ()
    """In a replay: the batches that it repeats, each with the entry of its first job."""
    traceparent: Traceparent | None = None
    """W3C trace context of the submit; no part of the content digest."""
    first_groups: Count | None = None
    """The batch is complete when so many groups have completions; the others are cut. None: all are wanted."""
    samples_per_job: Count | None = None
    """How many samples of a group a job has; None: all of them."""

    @model_validator(mode="after")
    def _jobs_hold_groups(self) -> Self:
        _check_first_groups(self.first_groups, self.num_groups)
        slices, left = divmod(self.num_jobs, self.shares)
        if left or not slices <= self.num_groups <= MAX_GROUPS_PER_JOB * slices:
            raise ValueError(
                f"{self.num_groups} groups in {self.num_jobs} jobs of 1 to {MAX_GROUPS_PER_JOB}, {self.shares} a group"
            )
        return self

    @property
    def shares(self) -> int:
        """How many jobs sample a group together."""
        return shares_of(self.config, self.samples_per_job)

    @property
    def replay_of(self) -> str | None:
        """The batch that this one replays; None if it replays none."""
        return self.lineage[-1].batch_id if self.lineage else None

    @property
    def tokens_per_group(self) -> int:
        """The most tokens that the completions of a group may have together."""
        return self.config.num_return_sequences * self.config.max_new_tokens


class Job(Message):
    """A slice of a batch: the unit of delivery and retry. Prompts are sent without padding."""

    kind: Literal["job"] = "job"
    batch_id: BatchId
    job: Index
    first_group: Index
    num_groups: Count
    """Groups of the whole batch, not of this job."""
    prompt_ids: Tensor
    """int32 (sum of lengths,): the prompts, one after the other."""
    prompt_lengths: Tensor
    """int32 (groups of this job,)."""
    config: GenerationConfig
    adapter: AdapterName | None = None
    submitted_at: float
    queue_deadline_s: Seconds | None = None
    """Longest wait for a worker, by Redis' clock, from the entry's id to its first delivery."""
    run_deadline_s: Seconds | None = None
    """Longest run of one delivery, from admission; groups that have no answer by then get an error."""
    min_policy_version: Index = 0
    """A worker that serves an older version leaves the job to others, and may take it once it has caught up."""
    max_staleness: Index | None = None
    """How many versions the worker may be behind the newest active one when it admits the job."""
    seed_offset: Index = 0
    """Group g draws the seed of row g + seed_offset: a replayed slice samples as it did in its own batch."""
    lineage: Lineage = ()
    requires: Requires = ()
    """What a worker must know to sample it; a worker that does not answers every group with `unsupported`."""
    first_groups: Count | None = None
    """As in `Batch`, for the whole batch."""
    keep_partials: float | None = Field(default=None, ge=0, lt=1e9)
    """Seconds between two times that running completions are kept in Redis; 0: never; None: as the worker is set."""
    expected_tokens: Tensor | None = None
    """int32 (groups of this job,): how long a completion of each group may become; the longest start first."""
    first_sample: Index = 0
    samples: Count | None = None
    """The job is a share of its groups: it has samples `first_sample` on, so many. None: all of them."""
    images: Annotated[tuple[Images, ...], Field(max_length=MAX_GROUPS_PER_JOB)] = ()
    """The images of each group's prompt, which has a placeholder for each of them; empty: no group has any."""
    continue_of: Turns = ()
    """The turn that each group goes on from: its prompt is then only what follows that completion. Empty: no group."""
    session: SessionName | None = None
    """The conversation that the job is a turn of: a hint for which worker to wait, and no content."""
    session_wait_s: SessionWait = SESSION_WAIT_S
    """For how long after its queueing the job waits for the worker that ran the session's last turn."""

    @model_validator(mode="after")
    def _samples_are_a_share(self) -> Self:
        check_share(self.config, self.first_sample, self.samples)
        return self

    @model_validator(mode="after")
    def _lengths_cover_ids(self) -> Self:
        _check_first_groups(self.first_groups, self.num_groups)
        expect("prompt_ids", self.prompt_ids, "int32", 1)
        expect("prompt_lengths", self.prompt_lengths, "int32", 1)
        if not 1 <= (groups := self.prompt_lengths.shape[0]) <= MAX_GROUPS_PER_JOB:
            raise ValueError(f"a job has 1 to {MAX_GROUPS_PER_JOB} groups, not {groups}")
        lengths = self.prompt_lengths.numpy().tolist()  # there are few: a list is quicker than an array
        if min(lengths) < 0 or sum(lengths) != self.prompt_ids.shape[0]:
            raise ValueError("prompt_lengths do not add up to prompt_ids")
        if self.first_group + len(lengths) > self.num_groups:
            raise ValueError("first_group + groups exceeds num_groups")
        check_images("images", self.images, groups)
        check_turns(self.continue_of, groups)
        if self.expected_tokens is not None:
            expect_shape("expected_tokens", self.expected_tokens, "int32", (groups,))
            if self.expected_tokens.numpy().min() < 0:
                raise ValueError("expected_tokens must not be negative")
        return self

    @property
    def groups(self) -> range:
        """Group numbers of this job, counted over the batch."""
        return range(self.first_group, self.first_group + self.prompt_lengths.shape[0])

    @property
    def sampled(self) -> int:
        """How many samples of each of its groups this job has."""
        return self.config.num_return_sequences if self.samples is None else self.samples

    @cached_property
    def prompts(self) -> list[NDArray[np.int32]]:
        """One int32 array for each group; an empty one for an all-zero row."""
        ends = np.cumsum(self.prompt_lengths.numpy())
        return np.split(self.prompt_ids.numpy(), ends[:-1])


def _check_first_groups(first_groups: int | None, num_groups: int) -> None:
    if first_groups is not None and first_groups > num_groups:
        raise ValueError(f"first_groups is {first_groups}, the batch has {num_groups} groups")


class DeadLetter(Message):
    """Why and when a job was given up on. The job's payload is a field of the same entry, byte for byte."""

    kind: Literal["dead"] = "dead"
    policy: str
    entry_id: str
    fields: tuple[tuple[bytes, bytes], ...]
    """The job entry's other fields: at most 16, each cut at 1 KiB."""
    error: str
    traceback: str = ""
    deliveries: Count
    worker: Shown
    delivered_at: float
    """Unix seconds."""
    buried_at: float
    """Unix seconds."""
