"""Why an announced version is not served, and when it is worth another look. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rollstream.schemas.errors import cut

from ..errors import CacheUnwritableError, CheckpointRefusedError, DataError, SwapFailedError, WorkerError
from ..weights.checkpoint import Stamp

CHANGED_S = 2.0
"""Between two looks at the files of a checkpoint: a shared file system shows them late, and is not to be worn out."""
FIRST_RETRY_S, LONGEST_RETRY_S = 10.0, 300.0
"""Between two loads of one whose files stay as they are."""


class VersionRefusedError(WorkerError):
    """Raised when an announced version is not what it is announced as, or this worker cannot reach it."""


REFUSED = VersionRefusedError, CheckpointRefusedError, SwapFailedError, DataError, CacheUnwritableError
"""What may come of loading one; the old one serves on."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a version is not served. Times are monotonic seconds."""

    why: str
    stamp: Stamp
    retry_s: float
    retry_at: float
    look_at: float


def is_due(refused: Refusal | None, now: float, stamp: Stamp | None = None) -> bool:
    """Whether to look at the files of an announced version, and once that gave their `stamp`, whether to load it."""
    if refused is None or now >= refused.retry_at:
        return True
    return now >= refused.look_at if stamp is None else stamp != refused.stamp


def refusal(before: Refusal | None, why: str, stamp: Stamp, now: float) -> Refusal:
    """The next one, after `before`: the same files wait twice as long."""
    again = before is not None and before.stamp == stamp
    retry_s = min(2 * before.retry_s, LONGEST_RETRY_S) if before is not None and again else FIRST_RETRY_S
    return Refusal(cut(why), stamp, retry_s, now + retry_s, now + CHANGED_S)
