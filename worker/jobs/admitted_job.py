"""One delivery of an admitted job, and what is decided once for all its groups."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

from rollstream.schemas import Envelope, GroupResult, GroupScores, Job, Part
from rollstream.schemas.wire.envelope import QueuedJob
from rollstream.schemas.wire.routing import rows_of
from rollstream.schemas.wire.sizes.result_size import result_bytes, score_bytes

from ..delivery.lease import Lease
from ..delivery.turns import Claim, Load
from ..errors import DataError
from .job_trace import UNTRACED, JobTrace
from .make_answers import GroupShare

OF_ERROR = Load(groups=1, sequences=1)
"""What a group takes that only gets an error answer: memory, but nothing of the engine. It counts as one sequence."""


class Sizes(NamedTuple):
    """What of an engine tells how much memory a group may take."""

    row_bytes: int = 0
    """Bytes of one token's routing; 0 for an engine that gives none."""
    max_model_len: int = 0
    """The most tokens of a prompt and its completion."""


UNKNOWN = Sizes()
"""Those of an engine that tells none."""


@dataclass(frozen=True, kw_only=True)
class AdmittedJob:
    """One delivery of a job that this worker has taken; `job` is the payload, or the error if it cannot be read."""

    lease: Lease
    envelope: Envelope
    job: QueuedJob | DataError
    claim: Claim
    """What the job takes of this worker."""
    trace: JobTrace = UNTRACED
    kept: dict[int, dict[int, Part]] = field(default_factory=dict, compare=False)
    """What earlier deliveries have kept of its samples, by group and sample; known before its groups begin."""

    sizes: Sizes = UNKNOWN
    loads: dict[int, Load] = field(default_factory=dict, compare=False)
    """What its groups with a place take, by group."""

    @cached_property
    def of_group(self) -> Load:
        """What one group takes until its answer is in Redis, as far as the job alone tells."""
        return OF_ERROR if isinstance(self.job, DataError) else load_of(self.job, self.sizes)


def load_of(job: QueuedJob, sizes: Sizes = UNKNOWN, prompt_tokens: int | None = None) -> Load:
    """What one group of the job takes. A row to score generates nothing, and counts as the longest of its job.

    `prompt_tokens`: the group's, with its images and turns; None: not known yet. Then the job's longest counts, and
    where images or earlier turns may make one longer, the longest that the engine takes.
    """
    if isinstance(job, Job):
        config = job.config
        sequences = config.sequences_per_prompt if job.samples is None else job.samples
        told = int(job.prompt_lengths.numpy().max(initial=0))
        longest = _longest_prompt(job, told, sizes) if prompt_tokens is None else prompt_tokens
        # The payload counts the prompt as it came.
        nbytes = result_bytes(config, max(0, longest - told))
        if config.routed_experts:
            nbytes += sequences * rows_of(longest, config.max_new_tokens) * sizes.row_bytes
        return Load(groups=1, sequences=sequences, nbytes=nbytes, tokens=sequences * config.max_new_tokens)
    columns = int((job.row_lengths.numpy() - job.firsts.numpy()).max())
    return Load(groups=1, sequences=1, nbytes=score_bytes(columns, job.top_logprobs))


def _longest_prompt(job: Job, told: int, sizes: Sizes) -> int:
    may_grow = any(job.images) or any(job.continue_of)
    return max(told, sizes.max_model_len - job.config.max_new_tokens) if may_grow else told


class Plan(Protocol):
    """What is checked once and shared by all groups of a job, and how each of them is answered."""

    @property
    def job(self) -> QueuedJob:
        """The job."""

    @property
    def version(self) -> int | None:
        """Policy version of a policy that is an adapter; None if the engine tells which version samples."""

    async def begin(self, admitted: AdmittedJob, groups: Collection[int]) -> None:
        """What must be known before these groups begin."""

    async def answer(self, admitted: AdmittedJob, group: int) -> GroupResult | GroupScores | GroupShare:
        """What the engine gives for this group, or for the samples that the job has of it.

        Raises `DataError` and `EngineDiedError`.
        """
