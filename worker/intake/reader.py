"""Reads new jobs, each partition in turn; a cluster node that is away does not delay the other partitions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.transport.redis import disconnected, is_split

from ..errors import SettingsError
from ..jobs.deadlines import RedisClock, waited_s
from ..measure.histogram import Histogram
from ..measure.redis_errors import FAILED
from ..redis_io import streams
from ..redis_io.connections import cancelled, retrying
from ..redis_io.streams import Entry, GroupMissingError

PAUSE_S = 0.2
"""Seconds between a failed read and the next: Redis may refuse reads and still answer everything else."""
TURN_MS = 100
"""Length of a blocking read while other partitions, on other nodes, may get a job."""

FindUnseen = Callable[[Iterable[str]], Awaitable[list[Entry]]]
"""Finds what these streams delivered to us in a reply that was lost."""

log = structlog.get_logger()


class Reader:
    """Reads up to as many new jobs as its caller has room for.

    It changes in the worker's event loop. `read`, which one caller at a time may call, turns the order and says
    whether it waits; a partition whose read failed has a task that mends it until it is done; `interrupt` may come
    at any time, and is over when the connection is closed.
    """

    def __init__(
        self,
        *,
        blocking: Redis,
        commands: Redis,
        consumer: str,
        jobs_keys: Iterable[str],
        block_ms: int,
        unseen: FindUnseen,
        clock: RedisClock,
        queue_wait: Histogram,
    ) -> None:
        """`queue_wait`: where the seconds are counted that each new job has waited in Redis."""
        self._blocking = blocking
        self._commands = commands
        self._consumer = consumer
        self._order = deque(jobs_keys)
        self._apart = is_split(blocking) and len(self._order) > 1
        self._block_ms = min(block_ms, TURN_MS) if self._apart else block_ms
        self._unseen = unseen
        self._clock = clock
        self._queue_wait = queue_wait
        self._mending: dict[str, asyncio.Task[list[Entry]]] = {}
        self._waiting = False
        self._interrupting: asyncio.Task[None] | None = None

    def interrupt(self) -> None:
        """End a waiting read by ending its connection; otherwise Redis would give it the next job, wanted or not.

        In a cluster of several partitions no read waits long enough to need it.
        """
        if self._waiting and self._interrupting is None:
            self._interrupting = asyncio.create_task(disconnected(self._blocking))

    def close(self) -> None:
        """Stop mending partitions."""
        for mending in self._mending.values():
            mending.cancel()

    async def create_groups(self, jobs_keys: Iterable[str]) -> None:
        """Create the consumer groups. Waits for Redis. Raises `SettingsError` for a key that is no stream."""
        for jobs_key in jobs_keys:
            try:
                await retrying("create group", streams.create_group, self._commands, jobs_key)
            except RedisError as error:
                raise SettingsError(f"--policy: {jobs_key} is no stream: {error}") from None

    async def read(self, count: int, *, waits: bool = True) -> list[Entry]:
        """Entries that are ours now: up to `count` new jobs, or those delivered in a reply that a fault lost, or none.

        `waits`: wait for a while if there is no new job.
        """
        self._order.rotate(-1)  # no partition comes first each time
        block_ms = self._block_ms if waits else None
        found = await (self._read_apart(count, block_ms) if self._apart else self._read_together(count, block_ms))
        self._note_waits(found)
        return found

    def _note_waits(self, found: list[Entry]) -> None:
        now = self._clock.now()
        for entry in found:
            waited = waited_s(entry.entry_id, now) if entry.delivery == 1 else None
            if waited is not None:
                self._queue_wait.add(waited)

    async def _read_together(self, count: int, block_ms: int | None) -> list[Entry]:
        self._waiting = block_ms is not None
        try:
            return await streams.read_new(self._blocking, self._consumer, self._order, block_ms, count)
        except RedisError as error:
            if self._interrupting is None:
                FAILED.add()
                log.warning("redis does not answer, reading again", error=str(error))
                await asyncio.sleep(PAUSE_S)
            return await self._unseen(self._order)
        except GroupMissingError:
            FAILED.add()
            log.warning("consumer group is gone, creating it again at 0")
            await self._create_again(self._order)
            return []
        finally:
            self._waiting, self._interrupting = False, None

    async def _read_apart(self, count: int, last_ms: int | None) -> list[Entry]:
        """In a cluster no command may name two partitions: each is asked in turn, and the last one a little longer."""
        if found := self._mended():
            return found
        order = list(self._order)
        for jobs_key in order:
            block_ms = last_ms if jobs_key == order[-1] else None
            try:
                found = await streams.read_of(self._blocking, self._consumer, [jobs_key], block_ms, count)
            except (RedisError, GroupMissingError) as error:
                if cancelled():
                    raise asyncio.CancelledError from error
                FAILED.add()
                log.warning("partition cannot be read, others go on", key=jobs_key, error=str(error))
                self._order.remove(jobs_key)
                self._mending[jobs_key] = asyncio.create_task(self._mend(jobs_key))
            if found:
                return found
        if not self._order:
            await asyncio.sleep(PAUSE_S)
        return []

    async def _create_again(self, jobs_keys: Iterable[str]) -> None:
        """Create the groups again. A key of another type does not end the worker: the next read asks again."""
        for jobs_key in jobs_keys:
            try:
                await self.create_groups([jobs_key])
            except SettingsError as error:
                log.error("jobs cannot be read", key=jobs_key, error=str(error))
                await asyncio.sleep(PAUSE_S)

    async def _mend(self, jobs_key: str) -> list[Entry]:
        await asyncio.sleep(PAUSE_S)
        await self._create_again([jobs_key])
        return await self._unseen([jobs_key])

    def _mended(self) -> list[Entry]:
        """Entries of the partitions that answer again, which are read from now on."""
        found: list[Entry] = []
        for jobs_key in [jobs_key for jobs_key, mending in self._mending.items() if mending.done()]:
            found += self._mending.pop(jobs_key).result()
            self._order.append(jobs_key)
        return found
