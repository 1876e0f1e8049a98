"""Turns a stream entry into a job, or into the error that says why it is none; no entry raises anything else."""

from __future__ import annotations

from collections.abc import Mapping

from rollstream.schemas import ConfigError, Envelope, ErrorCode, Job, ScoreJob, WireError, decode
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.envelope import JOB_KIND, SCORE_KIND, QueuedJob
from rollstream.schemas.wire.requires import unknown_names

from ..errors import DataError

_KINDS: dict[str, type[QueuedJob]] = {JOB_KIND: Job, SCORE_KIND: ScoreJob}


def open_job(envelope: Envelope, fields: Mapping[bytes, bytes]) -> QueuedJob:
    """The job of an entry whose envelope was readable. Raises `DataError`, the answer to all its groups."""
    if envelope.kind not in _KINDS:
        problem = f"no entry of kind {envelope.kind!r} is known to this worker, only {_known()}: upgrade the workers"
        raise DataError(ErrorCode.UNSUPPORTED, "kind", problem)
    try:
        job: QueuedJob = decode(fields.get(PAYLOAD, b""), _KINDS[envelope.kind])
        envelope.check_names(job)
    except WireError as error:
        raise DataError(ErrorCode.UNREADABLE_JOB, "job", f"{error}; the entry is kept as a dead letter") from error
    except ConfigError as error:
        raise DataError(ErrorCode.INVALID_CONFIG, f"config.{error.field}", str(error)) from error
    return job


def unsupported(job: QueuedJob) -> DataError | None:
    """The error for a job that requires what this worker does not know; None if it knows all."""
    names = unknown_names(job.requires)
    if not names:
        return None
    problem = f"the job requires {names}, which this worker does not know: upgrade the workers, or submit it without"
    return DataError(ErrorCode.UNSUPPORTED, "requires", problem)


def cancelled() -> DataError:
    """The error for groups whose batch was cancelled before they had an answer."""
    problem = "the batch was cancelled before this group was answered; submit it under another batch_id to run it"
    return DataError(ErrorCode.CANCELLED, "batch", problem)


def _known() -> str:
    return " and ".join(map(repr, _KINDS))
