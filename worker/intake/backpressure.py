"""Reads no job while Redis is nearly full: the rest of its memory is for the answers of jobs that were read.

Results need memory, and only readers and TTLs free it. So while Redis is nearly full, finished jobs that are only kept
for replay go early, the oldest first and no more than needed: answers that a producer waits for are worth more than a
history, and without this the queue could stand still for a whole retention. If unread jobs fill Redis, they are let in
one at a time, because a finished one can go.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas.pause_reason import PauseReason
from rollstream.transport.redis import nodes_of

from ..delivery.admission import Admission
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled
from .janitor import Janitor

PERIOD_S = 2
PAUSE_AT, RESUME_UNDER = 0.9, 0.85
"""Shares of `maxmemory`."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Redis' memory in bytes, as Redis counts it before it refuses a write."""

    used: int
    limit: int
    """`maxmemory`; 0: none."""

    @property
    def share(self) -> float:
        """The used share of the limit; 0 if there is no limit."""
        return self.used / self.limit if self.limit else 0.0


def nearly_full(memory: Memory, *, paused: bool) -> bool:
    """Whether intake pauses: from 0.9 of the limit on, and once `paused`, until less than 0.85 of it is used."""
    share = RESUME_UNDER if paused else PAUSE_AT
    return memory.limit > 0 and memory.used >= share * memory.limit


class Backpressure:
    """Pauses and resumes admission by Redis' memory."""

    def __init__(self, *, redis: Redis, admission: Admission, janitor: Janitor) -> None:
        self._redis = redis
        self._admission = admission
        self._janitor = janitor

    async def run(self) -> None:
        """Check again and again until admission closes. While Redis is away, nothing changes."""
        while not (self._admission.closed or cancelled()):
            try:
                await self.check()
            except RedisError as error:
                FAILED.add()
                log.debug("memory of redis not known", error=str(error))
            await asyncio.sleep(PERIOD_S)

    async def check(self) -> None:
        """Pause or resume. While paused, remove finished jobs until there is memory or none is left; let one job in."""
        memory, given_up = await self._measure(), 0
        while self._is_nearly_full(memory):
            gone = await self._janitor.give_up_history()
            if not gone:
                break
            given_up += gone
            memory = await self._measure()
        self._admission.let_one_in(PauseReason.MEMORY)
        if given_up:
            log.warning("replay history given up for memory", jobs=given_up, used=memory.used, maxmemory=memory.limit)

    def _is_nearly_full(self, memory: Memory) -> bool:
        paused = PauseReason.MEMORY in self._admission.paused
        full = nearly_full(memory, paused=paused)
        if full and not paused:
            self._admission.set_paused(PauseReason.MEMORY, on=True)
            log.warning(
                "intake paused: redis is nearly full",
                used=memory.used,
                maxmemory=memory.limit,
                remedy="raise maxmemory, or lower --result-ttl-s; until then one job runs at a time",
            )
        if paused and not full:
            self._admission.set_paused(PauseReason.MEMORY, on=False)
            log.info("intake resumed: redis has memory again", used=memory.used, maxmemory=memory.limit)
        return full

    async def _measure(self) -> Memory:
        """Memory of the fullest node that answers. Raises `RedisError` if none does."""
        nodes = (await nodes_of(self._redis)).values()
        found = await asyncio.gather(*map(_memory, nodes), return_exceptions=True)
        known = [memory for memory in found if isinstance(memory, Memory)]
        if not known:
            raise next(error for error in found if isinstance(error, BaseException))
        return max(known, key=lambda memory: memory.share)


async def _memory(node: Redis) -> Memory:
    info = await node.info("memory")
    # Replication and append-only buffers are in use, but do not make Redis refuse a write.
    return Memory(used=info["used_memory"] - info.get("mem_not_counted_for_evict", 0), limit=info["maxmemory"])
