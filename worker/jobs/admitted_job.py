"""One delivery of an admitted job, and what is decided once for all its groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rollstream.schemas import Envelope, Job
from rollstream.schemas.wire.result_size import result_bytes

from ..delivery.lease import Lease
from ..delivery.turns import Claim, Load
from ..engine import Adapter
from ..errors import DataError
from .job_trace import UNTRACED, JobTrace

OF_ERROR = Load(groups=1, sequences=1)
"""What a group takes that only gets an error answer: memory, but nothing of the engine. It counts as one sequence."""


@dataclass(frozen=True, kw_only=True)
class AdmittedJob:
    """One delivery of a job that this worker has taken; `job` is the payload, or the error if it cannot be read."""

    lease: Lease
    envelope: Envelope
    job: Job | DataError
    claim: Claim
    """What the job takes of this worker."""
    trace: JobTrace = UNTRACED

    @cached_property
    def of_group(self) -> Load:
        """What one group takes until its answer is in Redis."""
        if isinstance(self.job, DataError):
            return OF_ERROR
        config = self.job.config
        sequences = config.sequences_per_prompt
        return Load(
            groups=1, sequences=sequences, nbytes=result_bytes(config), tokens=sequences * config.max_new_tokens
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is checked once and shared by all groups of a job."""

    job: Job
    stop_token_ids: tuple[int, ...]
    adapter: Adapter | None
    version: int | None
    """Policy version of a policy that is an adapter; None if the engine tells which version samples."""
