"""Cancel a batch: answer its unanswered groups through Redis alone. No worker is needed, and a producer's wait ends.

The first slice of answers also marks the batch, so that no more jobs are queued and workers stop; then the other slices
are answered. If a cancel dies half-way, the next one completes it.
"""

from __future__ import annotations

import time
from functools import partial

from rollstream.schemas import ErrorCode, GroupError, Keys, Sealed, encode
from rollstream.schemas.times import RESULT_TTL_S
from rollstream.schemas.wire.scores import Description

from ..errors import UnknownBatchError
from ..redis_io.connection import Connection
from . import scripts

_SLICE = 256
"""Groups of one call, which takes a millisecond or two of Redis' time."""


async def cancel_batch(connection: Connection, keys: Keys, batch: Description) -> int:
    """How many groups are answered as cancelled, by this call and by earlier ones.

    Groups that a worker answers as cancelled, after it has seen the mark and before their slice, are not counted.

    If the batch is complete, nothing is written; 0 if it became complete without a cancel. Raises `UnknownBatchError`,
    `RedisUnavailableError`.
    """
    seal = encode(Sealed(batch_id=batch.batch_id, num_groups=batch.num_groups))
    cancel = partial(scripts.cancel, keys=keys, batch=batch, now=time.time(), keep_s=RESULT_TTL_S, sealed=seal)
    cancelled = 0
    for first in range(0, batch.num_groups, _SLICE):
        groups = range(first, min(first + _SLICE, batch.num_groups))
        answers = [encode(_answer(batch.batch_id, group)) for group in groups]
        count = await connection.call("cancel", partial(cancel, first_group=first, answers=answers))
        if count == "unknown":
            raise UnknownBatchError(batch.batch_id, keys.policy, "its ledger is gone: expired or deleted")
        if count == "sealed":  # complete; after the first slice: the marked ledger is gone, and a new one is complete
            return cancelled
        cancelled += count
    return cancelled


def _answer(batch_id: str, group: int) -> GroupError:
    return GroupError(
        batch_id=batch_id,
        group=group,
        code=ErrorCode.CANCELLED,
        field="batch",
        message="the batch was cancelled before this group was answered; submit it under another batch_id to run it",
        worker="producer",
    )
