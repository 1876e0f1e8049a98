"""A job's two deadlines: how long it may wait, by Redis' clock, and how long one delivery of it may run."""

from __future__ import annotations

import time

from rollstream.schemas import ErrorCode
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.wire.envelope import QueuedJob

from ..errors import DataError

AHEAD_S = 1.0
"""If an entry's id is further in the future than this, Redis' clock was set back."""


class RedisClock:
    """Redis' clock as last read, so that producers and workers mean the same moment."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()

    def set(self, unix_s: float, seen_at: float) -> None:
        """Redis' clock was `unix_s` at monotonic `seen_at` or before: a slow reply makes ours late, never early."""
        self._ahead_s = unix_s - seen_at

    def now(self) -> float:
        """Unix seconds by Redis' clock."""
        return time.monotonic() + self._ahead_s


def waited_s(entry_id: str, now: float) -> float | None:
    """Seconds since a job was queued; `now` is unix seconds by Redis' clock.

    None if the entry's id lies in the future: it, or an entry before it, was written while Redis' clock was ahead, for
    ids only grow.
    """
    queued_at = EntryId.of(entry_id).unix_s
    return max(0.0, now - queued_at) if queued_at <= now + AHEAD_S else None


def waited_too_long(job: QueuedJob, entry_id: str, now: float) -> DataError | None:
    """The error for a job that comes to its first worker too late; `now` is unix seconds by Redis' clock.

    If the entry's id does not tell, the producer's clock says when the job was submitted.
    """
    if job.queue_deadline_s is None:
        return None
    waited = waited_s(entry_id, now)
    waited = now - job.submitted_at if waited is None else waited
    if waited <= job.queue_deadline_s:
        return None
    problem = (
        f"waited {waited:.1f} s for a worker, longer than its queue_deadline_s of {job.queue_deadline_s:g}: nothing "
        "was generated; submit it again, start more workers or allow a longer wait"
    )
    return DataError(ErrorCode.QUEUE_DEADLINE, "queue_deadline_s", problem)


def ran_too_long(run_deadline_s: float) -> DataError:
    """The error for groups that had no answer when the run deadline of their job's delivery passed."""
    problem = (
        f"had no answer {run_deadline_s:g} s (run_deadline_s) after a worker admitted its job: submit it again with "
        "fewer prompts_per_job or max_new_tokens, or allow a longer run"
    )
    return DataError(ErrorCode.RUN_DEADLINE, "run_deadline_s", problem)
