"""Turns a stream entry into a job, or into the error that says why it is none; no entry raises anything else."""

from __future__ import annotations

from collections.abc import Mapping

from rollstream.schemas import ConfigError, Envelope, ErrorCode, Job, WireError, decode
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.envelope import JOB_KIND
from rollstream.schemas.wire.requires import unknown_names

from ..errors import DataError


def open_job(envelope: Envelope, fields: Mapping[bytes, bytes]) -> Job:
    """The job of an entry whose envelope was readable. Raises `DataError`, the answer to all its groups."""
    if envelope.kind != JOB_KIND:
        problem = f"no entry of kind {envelope.kind!r} is known to this worker, only {JOB_KIND!r}: upgrade the workers"
        raise DataError(ErrorCode.UNSUPPORTED, "kind", problem)
    try:
        job = decode(fields.get(PAYLOAD, b""), Job)
        envelope.check_names(job)
    except WireError as error:
        raise DataError(ErrorCode.UNREADABLE_JOB, "job", f"{error}; the entry is kept as a dead letter") from error
    except ConfigError as error:
        raise DataError(ErrorCode.INVALID_CONFIG, f"config.{error.field}", str(error)) from error
    return job


def unsupported(job: Job) -> DataError | None:
    """The error for a job that requires what this worker does not know; None if it knows all."""
    names = unknown_names(job.requires)
    if not names:
        return None
    problem = f"the job requires {names}, which this worker does not know: upgrade the workers, or submit it without"
    return DataError(ErrorCode.UNSUPPORTED, "requires", problem)
