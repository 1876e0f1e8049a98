"""Why an announced version is not served, and when to try it again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rollstream.schemas.errors import cut

from ..errors import (
    CacheUnwritableError,
    CheckpointRefusedError,
    DataError,
    ProofFailedError,
    SwapFailedError,
    VersionRefusedError,
)
from ..weights.checkpoint import Stamp

CHANGED_S = 2.0
"""Seconds between two looks at a checkpoint's files: a shared file system shows changes late and should not be busy."""
FIRST_RETRY_S, LONGEST_RETRY_S = 10.0, 300.0
"""Seconds between two loads of a version whose files have not changed."""


REFUSED = (
    VersionRefusedError,
    CheckpointRefusedError,
    SwapFailedError,
    ProofFailedError,
    DataError,
    CacheUnwritableError,
)
"""Errors of loading a version; the worker goes on with the old one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a version is not served. Times are monotonic seconds."""

    why: str
    stamp: Stamp
    retry_s: float
    retry_at: float
    look_at: float


def is_due(refused: Refusal | None, now: float, stamp: Stamp | None = None) -> bool:
    """Whether to look at the files of an announced version; given their `stamp`, whether to load it."""
    if refused is None or now >= refused.retry_at:
        return True
    return now >= refused.look_at if stamp is None else stamp != refused.stamp


def refusal(before: Refusal | None, why: str, stamp: Stamp, now: float) -> Refusal:
    """The next refusal after `before`: if the files are the same, the next load waits twice as long."""
    again = before is not None and before.stamp == stamp
    retry_s = min(2 * before.retry_s, LONGEST_RETRY_S) if before is not None and again else FIRST_RETRY_S
    return Refusal(why=cut(why), stamp=stamp, retry_s=retry_s, retry_at=now + retry_s, look_at=now + CHANGED_S)
