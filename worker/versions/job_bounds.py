"""Which jobs may run under the policy version that this worker serves. Pure."""

from __future__ import annotations

from rollstream.schemas import ErrorCode
from rollstream.schemas.wire.envelope import QueuedJob

from ..errors import DataError, WorkerError


class TooOldError(WorkerError):
    """Raised when a job needs a newer policy version than this worker serves; nothing was done for it."""

    def __init__(self, min_version: int) -> None:
        super().__init__(f"the job waits for policy version {min_version}")
        self.min_version = min_version


def is_bounded(job: QueuedJob) -> bool:
    """Whether the job says which policy versions may sample it."""
    return job.min_policy_version > 0 or job.max_staleness is not None


def must_wait(job: QueuedJob, served: int) -> bool:
    """Whether the job needs a newer version than the served one."""
    return job.min_policy_version > served


def too_stale(job: QueuedJob, served: int, newest: int, refused: str) -> DataError | None:
    """The error for a group of the job if `served` is too far behind the newest announced version; None if it is not.

    `refused`: why this worker refused the newest version; empty if it still loads.
    """
    behind = newest - served
    if job.max_staleness is None or behind <= job.max_staleness:
        return None
    remedy = "submit it again once the workers have caught up (wait_for_version), or allow more"
    if refused:
        remedy = f"publish a version that it can serve, for it refused {newest}: {refused}"
    problem = (
        f"policy version {served} would sample it, {behind} behind the newest ({newest}), more than its "
        f"max_staleness of {job.max_staleness}: nothing was generated; {remedy}"
    )
    return DataError(ErrorCode.TOO_STALE, "max_staleness", problem)


def outside_the_policy(job: QueuedJob) -> DataError | None:
    """The error for a job with version bounds and an adapter of its own when the policy is an adapter too.

    Such a job is sampled by the boot model and its own adapter, so no policy version applies to it.
    """
    if job.adapter is None or not is_bounded(job):
        return None
    field = "min_policy_version" if job.min_policy_version > 0 else "max_staleness"
    problem = (
        f"the policy is published as adapters, so adapter {job.adapter!r} is sampled without it and no policy version "
        f"applies: leave {field} out, or publish that adapter as the policy and submit without one"
    )
    return DataError(ErrorCode.INVALID_CONFIG, field, problem)
