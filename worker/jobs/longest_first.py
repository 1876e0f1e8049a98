"""In which order the groups of a job get their places: those whose completions may become longest first. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rollstream.schemas import Job
from rollstream.schemas.wire.envelope import QueuedJob


def longest_first(job: QueuedJob, groups: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """The groups in the order in which they start, and how long each may become.

    Those of a job that does not say stay as they are, and their lengths are empty.
    """
    if not isinstance(job, Job) or job.expected_tokens is None:
        return groups, ()
    expected = job.expected_tokens.tolist()
    ordered = sorted(groups, key=lambda group: (-expected[group - job.first_group], group))
    return ordered, [expected[group - job.first_group] for group in ordered]
