"""Every message that crosses Redis: frozen and strict; a new field has a default, a type never changes."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from functools import cached_property
from typing import Annotated, ClassVar, Literal, NoReturn, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..generation_config import GenerationConfig, LogprobsFlavour
from .completions import Completion, completions_of
from .fields import AdapterName, BatchId, Count, EntryIdText, FinishReason, Index, Shown, VersionSpan
from .tensors import Dtype, Tensor

MAX_GROUPS_PER_JOB = 4096


class Message(BaseModel):
    """What all messages share. Readers ignore fields they do not know."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    VERSION: ClassVar[int] = 1
    v: Literal[1] = 1


class Origin(BaseModel):
    """Where a replayed job came from: an entry of the jobs stream, and the batch that it belonged to."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    batch_id: BatchId
    entry_id: EntryIdText


Lineage = Annotated[tuple[Origin, ...], Field(max_length=100)]
"""What a replay repeats, the oldest first: empty for a first run, one `Origin` an attempt after it."""
Seconds = Annotated[float, Field(gt=0, lt=1e9)]


class Batch(Message):
    """What a batch is, kept in its ledger so that another process can attach. One per submit."""

    kind: Literal["batch"] = "batch"
    batch_id: BatchId
    num_groups: Count
    num_jobs: Count
    prompt_width: Index
    """Columns that prompts are padded to: the width of what was submitted, or the longest ragged prompt."""
    config: GenerationConfig
    adapter: AdapterName | None = None
    submitted_at: float
    """Unix seconds, the producer's clock."""
    lineage: Lineage = ()
    """Of a replay: the batches that it repeats, each with the entry of its first job."""

    @model_validator(mode="after")
    def _jobs_hold_groups(self) -> Self:
        if not self.num_jobs <= self.num_groups <= MAX_GROUPS_PER_JOB * self.num_jobs:
            raise ValueError(f"{self.num_groups} groups in {self.num_jobs} jobs of 1 to {MAX_GROUPS_PER_JOB}")
        return self

    @property
    def replay_of(self) -> str | None:
        """The batch that this one replays."""
        return self.lineage[-1].batch_id if self.lineage else None


class Job(Message):
    """A slice of a batch: the unit of delivery and retry. Prompts travel ragged."""

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
    """An older worker leaves the job to others and takes it once it has caught up."""
    max_staleness: Index | None = None
    """Most versions that the worker may be behind the newest published one when it admits the job."""
    seed_offset: Index = 0
    """Group g draws the seed of row g + seed_offset: a replayed slice samples as it did in its own batch."""
    lineage: Lineage = ()

    @model_validator(mode="after")
    def _lengths_cover_ids(self) -> Self:
        _expect("prompt_ids", self.prompt_ids, "int32", 1)
        _expect("prompt_lengths", self.prompt_lengths, "int32", 1)
        if not 1 <= (groups := self.prompt_lengths.shape[0]) <= MAX_GROUPS_PER_JOB:
            raise ValueError(f"a job has 1 to {MAX_GROUPS_PER_JOB} groups, not {groups}")
        lengths = self.prompt_lengths.numpy().tolist()  # few: a list is quicker than an array
        if min(lengths) < 0 or sum(lengths) != self.prompt_ids.shape[0]:
            raise ValueError("prompt_lengths do not add up to prompt_ids")
        if self.first_group + len(lengths) > self.num_groups:
            raise ValueError("first_group + groups exceeds num_groups")
        return self

    @property
    def groups(self) -> range:
        """Group numbers of this job, counted over the batch."""
        return range(self.first_group, self.first_group + self.prompt_lengths.shape[0])

    @cached_property
    def prompts(self) -> list[NDArray[np.int32]]:
        """One int32 array a group; empty for an all-zero row."""
        ends = np.cumsum(self.prompt_lengths.numpy())
        return np.split(self.prompt_ids.numpy(), ends[:-1])


class ErrorCode(StrEnum):
    """Why a group has no completions. Those up to ENGINE_REFUSED are faults of the data: never retried."""

    UNREADABLE_JOB = "unreadable_job"
    INVALID_CONFIG = "invalid_config"
    EMPTY_PROMPT = "empty_prompt"
    TOKEN_OUT_OF_VOCABULARY = "token_out_of_vocabulary"  # noqa: S105 - a sampling token, no secret
    TOO_LONG = "too_long"
    UNKNOWN_ADAPTER = "unknown_adapter"
    ADAPTER_REFUSED = "adapter_refused"
    NEEDS_TOKENIZER = "needs_tokenizer"
    ENGINE_REFUSED = "engine_refused"
    TOO_MANY_DELIVERIES = "too_many_deliveries"
    CANCELLED = "cancelled"
    QUEUE_DEADLINE = "queue_deadline"
    RUN_DEADLINE = "run_deadline"
    TOO_STALE = "too_stale"


class GroupError(Message):
    """The answer to a group that cannot be generated."""

    kind: Literal["error"] = "error"
    batch_id: BatchId
    group: Index
    code: str = Field(pattern=r"^[a-z_]{1,64}$")
    """An `ErrorCode`; a newer worker may know more of them."""
    field: Shown
    """What is at fault: `prompt`, a config's field, `adapter`, `job`."""
    message: Shown
    """What is wrong, where, and what to do."""
    worker: Shown
    prompt: Tensor | None = None
    """int32 (prompt_len,), where the worker could read it."""

    @property
    def completions(self) -> NoReturn:
        """There are none: raises `TypeError`, so that no failed group is rewarded as an empty one."""
        raise self._has_none()

    def __iter__(self) -> NoReturn:  # pydantic's own would give names and values
        raise self._has_none()

    def _has_none(self) -> TypeError:
        return TypeError(f"group {self.group} failed and has no completions: {self.code}: {self.field}: {self.message}")

    @model_validator(mode="after")
    def _prompt_is_flat(self) -> Self:
        if self.prompt is not None:
            _expect("prompt", self.prompt, "int32", 1)
        return self


class GroupResult(Message):
    """One prompt and its n completions, padded to the longest of them: L columns.

    `completions` has them one by one, without padding; `len(group)` is n, and a loop over the group gives the same.
    """

    kind: Literal["group"] = "group"
    batch_id: BatchId
    group: Index
    prompt: Tensor
    """int32 (prompt_len,)"""
    token_ids: Tensor
    """int32 (n, L), zeros after a completion's length."""
    lengths: Tensor
    """int32 (n,)"""
    response_mask: Tensor
    """bit (n, L), true where a token was sampled: column < length."""
    logprobs: Tensor | None = None
    """float32 (n, L), zeros after a completion's length."""
    logprobs_flavour: LogprobsFlavour | None = None
    finish_reasons: tuple[FinishReason, ...]
    stop_reasons: tuple[int | str | None, ...]
    """The stop token id or stop string that ended it; None when cut by length."""
    texts: tuple[str, ...] | None = None
    """With `stop_strings` only: the decoded completion, cut as `include_stop_str_in_output` says."""
    scores: Tensor | None = None
    """float32 (n,), beam search only."""
    version_spans: tuple[tuple[VersionSpan, ...], ...]
    spans_exact: bool = True
    adapter: AdapterName | None = None
    worker: Shown
    delivery: Count = 1
    """Which delivery of the job answered."""
    queued_s: float
    """Seconds between submit and admission, by two machines' clocks."""
    generate_s: float

    @property
    def completions(self) -> tuple[Completion, ...]:
        """Each with its ids, log-probs, text, finish reason and length. Made at each call: keep what you use twice."""
        return completions_of(self)

    @property
    def prompt_ids(self) -> list[int]:
        """The prompt without padding."""
        return self.prompt.tolist()

    def __len__(self) -> int:
        return self.token_ids.shape[0]

    def __iter__(self) -> Iterator[Completion]:  # type: ignore[override] # pydantic's own would give names and values
        return iter(self.completions)

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        _expect("prompt", self.prompt, "int32", 1)
        _expect("token_ids", self.token_ids, "int32", 2)
        n, width = self.token_ids.shape
        if n < 1:  # no bytes would then stand for any width
            raise ValueError("a group has at least one completion")
        shapes: list[tuple[str, Tensor | None, Dtype, tuple[int, ...]]] = [
            ("lengths", self.lengths, "int32", (n,)),
            ("response_mask", self.response_mask, "bit", (n, width)),
            ("logprobs", self.logprobs, "float32", (n, width)),
            ("scores", self.scores, "float32", (n,)),
        ]
        for name, tensor, dtype, shape in shapes:
            if tensor is not None and (tensor.dtype, tensor.shape) != (dtype, shape):
                raise ValueError(f"{name}: expected {dtype} {shape}, got {tensor.dtype} {tensor.shape}")
        if {len(self.finish_reasons), len(self.stop_reasons), len(self.version_spans)} != {n}:
            raise ValueError(f"finish_reasons, stop_reasons and version_spans must have {n} items each")
        if self.texts is not None and len(self.texts) != n:
            raise ValueError(f"texts must have {n} items")
        if (self.logprobs is None) != (self.logprobs_flavour is None):
            raise ValueError("logprobs and logprobs_flavour come together")
        lengths = self.lengths.numpy()
        listed = lengths.tolist()
        if min(listed, default=0) < 0 or max(listed, default=0) > width:
            raise ValueError(f"lengths must lie within 0 and {width}")
        if Tensor.of(np.arange(width) < lengths[:, None]).data != self.response_mask.data:
            raise ValueError("response_mask does not follow from lengths")
        return self


class Sealed(Message):
    """Follows a batch's last group: nothing more will come."""

    kind: Literal["sealed"] = "sealed"
    batch_id: BatchId
    num_groups: Count


class DeadLetter(Message):
    """Why and when a job was given up on. Its payload stands beside it in the stream entry, byte for byte."""

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


def _expect(name: str, tensor: Tensor, dtype: Dtype, ndim: int) -> None:
    if tensor.dtype != dtype or len(tensor.shape) != ndim:
        raise ValueError(f"{name}: expected {dtype} with {ndim} dimensions, got {tensor.dtype} {tensor.shape}")
