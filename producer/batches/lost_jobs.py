"""Notice a batch whose jobs are gone: removed, acknowledged or skipped by hand, or lost by a failover."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.wire.scores import Description
from rollstream.transport.redis.faults import fault_of

from ..errors import RedisUnavailableError, UnreadableResultError
from ..redis_io.connection import Connection
from . import scripts
from .ledger import read_job_entries

_MOST = 500
"""Jobs that one call looks at. Nearly always the first decides, because the newest are asked for first."""


class JobsLeft:
    """Asks whether a batch has a job that can still be answered; remembers the entry ids of its jobs."""

    def __init__(self, *, connection: Connection, keys: Keys, batch: Description, was_queued: bool) -> None:
        """`was_queued`: whether Redis has once acknowledged all of the batch's jobs."""
        self._connection = connection
        self._keys = keys
        self._batch = batch
        self._was_queued = was_queued
        self._entries: list[str] = []
        self._can_ask = True
        self.forgotten = 0
        """Jobs that Redis acknowledged and does not know any more, when that was last asked."""

    def ask_again(self) -> None:
        """The jobs were queued again, as other entries."""
        self._entries = []

    async def are_lost(self) -> bool:
        """Whether groups will never be answered: all jobs were queued, and none waits or is pending, or some are gone.

        False if that cannot be known: this user may not ask, or the ledger is not ours. Raises `RedisUnavailableError`.
        """
        if not self._can_ask:
            return False
        try:
            if len(self._entries) < self._batch.num_jobs:
                self._entries = await read_job_entries(self._connection, self._keys, self._batch.batch_id)
            missing = self._batch.num_jobs - len(self._entries)
            if missing > 0:  # otherwise its submit still runs, or must be repeated
                self.forgotten = missing if self._was_queued else 0
                return self.forgotten > 0
            return await self._connection.call("look for lost jobs", self._ask)
        except RedisUnavailableError as error:
            fault = fault_of(error.__cause__)
            if fault.passes or fault.never:
                raise
        except UnreadableResultError:
            pass
        self._can_ask = False
        return False

    async def _ask(self, redis: Redis) -> bool:
        return await jobs_are_lost(redis, self._keys, self._batch.batch_id, self._batch.num_groups, self._entries)


async def jobs_are_lost(redis: Redis, keys: Keys, batch_id: str, groups: int, entries: list[str]) -> bool:
    """Whether no job of these `entries` is left, and not all of the batch's groups are answered."""
    newest_first = sorted(entries, key=EntryId.of, reverse=True)  # which need not be the order of the jobs
    for ids in (newest_first[at : at + _MOST] for at in range(0, len(entries), _MOST)):
        if await scripts.jobs_left(redis, keys, batch_id, groups=groups, entries=ids) != "lost":
            return False
    return True
