"""Cuts the rest of a batch that has as many groups with completions as it wanted."""

from __future__ import annotations

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Envelope, Keys
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.transport.cuts.scripts import Cut, cut, slices

from ..redis_io.connections import retrying

log = structlog.get_logger()


class Cutter:
    """Cuts what a batch wants no more, whichever worker has it. One cut of a batch at a time is enough.

    `_under_way` has the batches that are being cut here; `cut_rest` alone changes it.
    """

    def __init__(self, *, redis: Redis, keys: Keys, keep_s: int) -> None:
        """`keep_s`: seconds that results and ledger stay once the batch is sealed."""
        self._redis = redis
        self._keys = keys
        self._keep_s = keep_s
        self._under_way: set[str] = set()

    async def cut_rest(self, job: Envelope, by: str, *, is_routed: bool = False) -> None:
        """Answer the groups of the job's batch that have no answer as not needed. `is_routed`: see `Cut`.

        If it cannot be done, or this worker dies meanwhile, the batch's next answer or its reader has it done.
        """
        if job.batch_id in self._under_way:
            return
        self._under_way.add(job.batch_id)
        try:
            log.info("batch has as many groups as it wanted, the rest is cut", batch=job.batch_id)
            await self._cut(job, by, is_routed=is_routed)
        except RedisError as error:
            log.error("the rest of a batch cannot be cut, its reader may", batch=job.batch_id, error=str(error))
        finally:
            self._under_way.discard(job.batch_id)

    async def _cut(self, job: Envelope, by: str, *, is_routed: bool) -> None:
        asked = Cut(
            batch_id=job.batch_id,
            num_groups=job.num_groups,
            tokens_per_group=job.asked_of_group,
            by=by,
            keep_s=self._keep_s,
            is_routed=is_routed,
            only_if_enough=True,
        )
        ledger = self._keys.ledger(job.batch_id)
        for some in slices(range(job.num_groups)):
            known = await retrying("read ledger", self._redis.hmget, ledger, [LedgerField.group(one) for one in some])
            if waiting := [group for group, answer in zip(some, known, strict=True) if answer is None]:
                await retrying("cut groups", cut, self._redis, self._keys, asked, waiting)
