"""Takes batches off the index of their partition once their ledgers have expired, and counts parts right.

Parts may expire, or be deleted by hand: then what is counted for them is taken off.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys
from rollstream.schemas.hashes.part_fields import ALL_PARTS

from ..delivery.admission import Admission
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled
from . import scripts

PERIOD_S = 60
_PAGE, _PAGES = 500, 4
"""Batches of one call, and calls of one look: a few milliseconds of Redis' time a minute, for any number of batches."""

log = structlog.get_logger()


class BatchIndex:
    """Looks at some batches of every index about once a minute; any number of workers may do so at once."""

    def __init__(self, *, redis: Redis, keys: Keys, admission: Admission) -> None:
        self._redis = redis
        self._keys = keys
        self._admission = admission
        self._starts = dict.fromkeys(range(keys.partitions), 0)
        """Rank in each partition's index where the next look begins."""
        self._cursors = dict.fromkeys(range(keys.partitions), 0)
        """Where the next look at the bytes of each partition's parts begins."""

    async def run(self) -> None:
        """Tidy all indexes again and again until admission closes, also after Redis was away."""
        while not (self._admission.closed or cancelled()):
            await asyncio.sleep(random.uniform(0.5, 1) * PERIOD_S)
            for partition in self._starts:
                try:
                    await self.tidy(partition)
                    await self.mend_parts(partition)
                except RedisError as error:
                    FAILED.add()
                    log.warning("index of batches not tidied", partition=partition, error=str(error))

    async def tidy(self, partition: int) -> int:
        """Look once, from where the last look ended, and count the removed batches. Raises `RedisError`."""
        gone = 0
        for _ in range(_PAGES):
            start = self._starts[partition]
            members: Any = await self._redis.zrange(self._keys.batches(partition), start, start + _PAGE - 1)
            names = [member.decode("utf-8", "backslashreplace") for member in members]
            ours = [name for name in names if self._keys.has_batch(partition, name)]
            forgotten = await scripts.forget(self._redis, self._keys, partition, batch_ids=ours) if ours else 0
            gone += forgotten
            self._starts[partition] = start + len(members) - forgotten
            if len(members) < _PAGE:
                self._starts[partition] = 0
                break
        return gone

    async def mend_parts(self, partition: int) -> int:
        """Look at some batches that have parts, from where the last look ended, and count those whose parts are gone.

        Where nothing is kept this is one command. Raises `RedisError`.
        """
        key = self._keys.part_bytes(partition)
        reply: Any = await self._redis.hscan(key, self._cursors[partition], count=_PAGE)
        self._cursors[partition], found = reply
        if not found:
            return 0
        names = {field: field.decode("utf-8", "backslashreplace") for field in found if field != ALL_PARTS.encode()}
        foreign = [field for field, name in names.items() if not self._keys.has_batch(partition, name)]
        if foreign:
            await self._redis.hdel(key, *foreign)
        ours = [name for field, name in names.items() if field not in foreign]
        return await scripts.mend_parts(self._redis, self._keys, partition, batch_ids=ours)
