"""What is given up on is kept, with its bytes, the reason and its history, by the holder of the lease alone."""

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
"""Characters, from its end: what was raised last."""

log = structlog.get_logger()


class DeadLetters:
    """Writes to the `dead` stream of the partition that an entry came from."""

    def __init__(self, *, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def bury(
        self, lease: Lease, fields: Mapping[bytes, bytes], error: Exception, batch_id: str | None = None
    ) -> None:
        """Keep the entry. Without a `batch_id` nobody can be answered, and it is acknowledged too.

        Redis copies the payload itself: it need not fit what one command may carry, nor travel again.
        """
        letter = _letter(self._keys.policy, lease, fields, error)
        ledger = self._keys.ledger(batch_id) if batch_id else None
        sent = partial(scripts.bury, self._redis, lease, dead_key=lease.dead_key, ledger=ledger, letter=encode(letter))
        try:
            outcome = await retrying("bury", sent)
            if outcome == "gone":  # somebody removed the entry by hand: what we read of it is all that is left
                outcome = await retrying("bury", sent, payload=fields.get(PAYLOAD, b""))
        except RedisError as refusal:
            if batch_id is not None:
                raise
            log.error("dead letter refused, the entry stays pending", entry=lease.entry_id, error=str(refusal))
            return
        log.error(
            "job given up on, kept as a dead letter",
            entry=lease.entry_id,
            batch=batch_id,
            error=letter.error,
            outcome=outcome,
        )


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
