"""Describe the new batch of a replay; its scores go to the columns of the original while its ledger is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rollstream.schemas import Batch, ScoreDescription, Tensor
from rollstream.schemas.wire.scores import Description

from .asked import Sampling, Scoring
from .selection import Selected


def original_of(jobs: Sequence[Selected], found: Description | None) -> Description | None:
    """The description `found` under the jobs' batch id, unless it is of another batch that used the id again."""
    if isinstance(found, ScoreDescription):
        return found if all(_describes(found, job) for job in jobs) else None
    return found if isinstance(jobs[0].asked, Sampling) else None


def describe(jobs: Sequence[Selected], original: Description | None, common: dict[str, Any]) -> Description:
    """The new batch of these jobs, which agree in what they ask for; `common` has what both kinds say."""
    prompts = [job.asked for job in jobs if isinstance(job.asked, Sampling)]
    if not prompts:
        return _of_rows(jobs, original, common)
    width = original.prompt_width if isinstance(original, Batch) else 0
    longest = max(asked.longest_prompt for asked in prompts)
    return Batch(prompt_width=max(width, longest), config=prompts[0].config, **common)


def _of_rows(jobs: Sequence[Selected], original: Description | None, common: dict[str, Any]) -> ScoreDescription:
    rows = [job.asked for job in jobs if isinstance(job.asked, Scoring)]
    columns = np.concatenate([asked.columns.numpy() for asked in rows])
    width, offsets = int(columns.max()), np.zeros(len(columns), np.int32)
    if isinstance(original, ScoreDescription):
        width = original.width
        offsets = np.concatenate([_slice(original.offsets, job.groups) for job in jobs])
    return ScoreDescription(
        width=width,
        offsets=Tensor.of(offsets),
        columns=Tensor.of(columns),
        tokens_per_group=-(-sum(job.prompt_tokens for job in jobs) // len(columns)),
        top_logprobs=rows[0].top_logprobs,
        **common,
    )


def _describes(found: ScoreDescription, job: Selected) -> bool:
    """Whether the job's rows are among those that it describes."""
    asked = job.asked
    if not isinstance(asked, Scoring) or (found.num_groups, found.adapter) != (job.num_groups, job.adapter):
        return False
    columns = asked.columns.numpy()
    said = columns if found.columns is None else _slice(found.columns, job.groups)
    ends = _slice(found.offsets, job.groups).astype(np.int64) + columns
    same = np.array_equal(columns, said) and int(ends.max()) <= found.width
    return same and found.top_logprobs == asked.top_logprobs


def _slice(numbers: Tensor, groups: range) -> Any:
    return numbers.numpy()[groups.start : groups.stop]
