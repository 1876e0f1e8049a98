"""A stream entry becomes a job or the reason why it is none; nothing in it can make this raise anything else."""

from __future__ import annotations

from collections.abc import Mapping

from rollstream.schemas import ConfigError, Envelope, ErrorCode, Job, WireError, decode
from rollstream.schemas.wire.envelope import PAYLOAD

from ..errors import DataError


def open_job(envelope: Envelope, fields: Mapping[bytes, bytes]) -> Job:
    """The job of an entry whose envelope was readable. Raises `DataError`, which answers all its groups."""
    try:
        job = decode(fields.get(PAYLOAD, b""), Job)
        envelope.check_names(job)
    except WireError as error:
        raise DataError(ErrorCode.UNREADABLE_JOB, "job", f"{error}; the entry is kept as a dead letter") from error
    except ConfigError as error:
        raise DataError(ErrorCode.INVALID_CONFIG, f"config.{error.field}", str(error)) from error
    return job
