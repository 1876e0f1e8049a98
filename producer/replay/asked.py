"""What a selected job asks for, by its kind: kept from its payload without the ids, and said again of the new batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from rollstream.schemas import Envelope, GenerationConfig, Job, Tensor
from rollstream.schemas.wire.envelope import QueuedJob
from rollstream.schemas.wire.requires import FIRST_GROUPS, SPLIT
from rollstream.schemas.wire.shares import Share

_MAX_INDEX = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Completions of prompts."""

    config: GenerationConfig
    longest_prompt: int
    seed_offset: int
    share: Share | None = None
    """Which samples of its groups the job had; None: all. Its replay has all of them."""
    requires: tuple[str, ...] = ()
    """What a worker must know for its replay."""

    @property
    def settings(self) -> GenerationConfig:
        """What all jobs of a batch have in common."""
        return self.config

    def misfit(self, first_group: int) -> str | None:
        """Why no replay can ask for it, if its groups begin there in its batch; None if one can."""
        return "its seed offset is out of bounds" if first_group + self.seed_offset >= _MAX_INDEX else None

    def moved(self, by: int) -> dict[str, Any]:
        """What its job says after its groups were renumbered, `by` lower: they draw the seeds of the original.

        A job that shared its groups out with others samples whole groups: of the others nothing need be left.
        """
        whole = {} if self.share is None else {"first_sample": 0, "samples": None, "requires": self.requires}
        return {"seed_offset": self.seed_offset + by, **whole}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """Log-probs of rows."""

    top_logprobs: int
    columns: Tensor
    """int32 (rows of the job,): how many tokens of each are scored."""

    @classmethod
    def of(cls, lengths: Tensor, firsts: Tensor, top_logprobs: int) -> Self:
        """For rows of these lengths, each scored from its first token to score on."""
        return cls(top_logprobs=top_logprobs, columns=Tensor.of(lengths.numpy() - firsts.numpy()))

    @property
    def share(self) -> None:
        """A row is never shared out."""

    @property
    def settings(self) -> int:
        """What all jobs of a batch have in common."""
        return self.top_logprobs

    def misfit(self, _first_group: int) -> str | None:
        """Rows have no seeds: they can be scored again wherever they are."""
        return None

    def moved(self, _by: int) -> dict[str, Any]:
        """Nothing but its numbers changes."""
        return {}


Asked: TypeAlias = Sampling | Scoring


def asked_of(job: QueuedJob) -> Asked:
    """What is kept of a job."""
    if isinstance(job, Job):
        longest = int(job.prompt_lengths.numpy().max())
        return Sampling(
            config=job.config,
            longest_prompt=longest,
            seed_offset=job.seed_offset,
            share=Envelope.of_job(job).share,
            requires=tuple(name for name in job.requires if name not in (SPLIT, FIRST_GROUPS)),
        )
    return Scoring.of(job.row_lengths, job.firsts, job.top_logprobs)
