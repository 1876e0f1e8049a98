"""How the prompts and samples of a batch are cut into jobs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GenerationConfig, Job
from rollstream.schemas.errors import shown
from rollstream.schemas.wire.fields import MAX_GROUPS_PER_JOB
from rollstream.schemas.wire.requires import SPLIT
from rollstream.schemas.wire.shares import why_unsplit

from ..calls.arguments import number
from ..errors import PromptsError
from .expected import expected_tokens, longest_first

DEFAULT_PROMPTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Slicing:
    """Each job has `prompts_per_job` prompts, the last one fewer, and of each of them `samples_per_job` samples."""

    prompts_per_job: int = DEFAULT_PROMPTS
    samples_per_job: int | None = None
    """None: one job has all samples of a prompt."""
    expected_tokens: NDArray[np.int32] | None = None
    """About how long a completion of each prompt will be: jobs with long ones come first. None: nobody says."""

    @classmethod
    def of(
        cls,
        config: GenerationConfig,
        prompts: int,
        *,
        prompts_per_job: Any,
        samples_per_job: Any = None,
        expected: Any = None,
    ) -> Self:
        """Read what was given for a batch of so many prompts. Raises `PromptsError`."""
        prompts_per_job = number(prompts_per_job)
        if type(prompts_per_job) is not int or not 1 <= prompts_per_job <= MAX_GROUPS_PER_JOB:
            problem = f"{shown(prompts_per_job)} is no integer from 1 to {MAX_GROUPS_PER_JOB}"
            raise PromptsError("prompts_per_job", problem)
        return cls(
            prompts_per_job=prompts_per_job,
            samples_per_job=_samples(config, number(samples_per_job)),
            expected_tokens=expected_tokens(expected, prompts),
        )

    def slices(self, prompts: int) -> Iterator[tuple[int, range, NDArray[np.int32] | None]]:
        """The number of each slice, its prompts and what is expected of them, as its jobs come in the queue."""
        rows = [range(prompts)[first:][: self.prompts_per_job] for first in range(0, prompts, self.prompts_per_job)]
        told = self.expected_tokens
        expected = [None if told is None else told[one.start : one.stop] for one in rows]
        for slice_ in longest_first(expected):
            yield slice_, rows[slice_], expected[slice_]


def _samples(config: GenerationConfig, samples_per_job: Any) -> int | None:
    """The number; None if one job has all samples of a group anyway. Raises `PromptsError`."""
    if samples_per_job is None:
        return None
    n = config.num_return_sequences
    if type(samples_per_job) is not int or not 1 <= samples_per_job <= n:
        rule = f"{shown(samples_per_job)} is no integer from 1 to num_return_sequences, which is {n}"
        raise PromptsError("samples_per_job", rule)
    if samples_per_job == n:
        return None
    if problem := why_unsplit(config):
        raise PromptsError("samples_per_job", problem)
    return samples_per_job


def shared_out(whole: Job, number: int, samples_per_job: int | None) -> list[Job]:
    """The jobs of slice `number` of a batch: `whole`, or its shares, one after the other, with numbers of their own."""
    if samples_per_job is None:
        return [whole.model_copy(update={"job": number})]
    n = whole.config.num_return_sequences
    firsts = range(0, n, samples_per_job)
    return [
        whole.model_copy(
            update={
                "job": number * len(firsts) + share,
                "first_sample": first,
                "samples": min(samples_per_job, n - first),
                "requires": (*whole.requires, SPLIT),
            }
        )
        for share, first in enumerate(firsts)
    ]
