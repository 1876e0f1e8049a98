"""Keeps jobs that are given up on, with their bytes, the reason and their history. Only the lease's holder may."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from functools import partial
from itertools import islice

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import DeadLetter, Keys, encode
from rollstream.schemas.errors import cut
from rollstream.schemas.wire.entry_fields import PAYLOAD

from ..redis_io.connections import retrying
from . import scripts
from .lease import Lease

MAX_TRACEBACK = 8192
"""Most characters of a traceback, from its end: that was raised last."""

log = structlog.get_logger()


class DeadLetters:
    """Writes to the stream of dead letters of the entry's partition."""

    def __init__(self, *, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def bury(
        self, lease: Lease, fields: Mapping[bytes, bytes], error: Exception, batch_id: str | None = None
    ) -> bool:
        """Keep the entry as a dead letter. Without a `batch_id` no answer is possible, so it is acknowledged too.

        Returns whether it is one now: not if the lease was lost, or Redis refuses the letter. Redis copies the payload
        itself: it need not fit into a command, nor be sent again.
        """
        letter = _letter(self._keys.policy, lease, fields, error)
        ledger = self._keys.ledger(batch_id) if batch_id else None
        sent = partial(scripts.bury, self._redis, lease, dead_key=lease.dead_key, ledger=ledger, letter=encode(letter))
        try:
            outcome = await retrying("bury", sent)
            if outcome == "gone":  # the entry was removed by hand: what we read of it is all that is left
                outcome = await retrying("bury", sent, payload=fields.get(PAYLOAD, b""))
        except RedisError as refusal:
            if batch_id is not None:
                raise
            log.error("dead letter refused, the entry stays pending", entry=lease.entry_id, error=str(refusal))
            return False
        log.error(
            "job given up on, kept as a dead letter",
            entry=lease.entry_id,
            batch=batch_id,
            error=letter.error,
            outcome=outcome,
        )
        return outcome == "buried"


def _letter(policy: str, lease: Lease, fields: Mapping[bytes, bytes], error: Exception) -> DeadLetter:
    now = time.time()
    others = ((name, value) for name, value in fields.items() if name != PAYLOAD)
    return DeadLetter(
        policy=policy,
        entry_id=lease.entry_id,
        fields=tuple((name[:1024], value[:1024]) for name, value in islice(others, 16)),
        error=cut(f"{type(error).__name__}: {error}"),
        traceback="".join(traceback.format_exception(error))[-MAX_TRACEBACK:],
        deliveries=lease.delivery,
        worker=lease.consumer,
        delivered_at=now - (time.monotonic() - lease.taken_at),
        buried_at=now,
    )
