"""Reads what an overview shows, again and again, at a cost that does not grow with what Redis holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.field_values import seconds_of
from rollstream.schemas.hashes.history import Rate, RateField
from rollstream.schemas.hashes.worker_report import WorkerState
from rollstream.schemas.pause_reason import PAUSED_FIELD

from ..redis_io.connection import Connection
from .backlog import ASSUMED_TOKENS_PER_S, Backlog, backlog_of
from .fleet import Fleet, FleetWorker, Presence
from .parts.ages import age_s
from .parts.batches import Batches
from .parts.letters import Letters, newest_of
from .parts.memory import read_memory
from .parts.minutes import Minutes
from .parts.queues import PartitionSeen, Queue
from .parts.reached import Reached
from .parts.rounds import Part, Rounds, rows
from .parts.versions import read_versions, versions_seen
from .parts.workers import Workers

_RATE = (RateField.TOKENS_PER_S, RateField.MEAN_LENGTH, RateField.ANSWERS, RateField.SHARE)


class FleetReader:
    """Makes readings of one policy, one after another; one for each process.

    It keeps what makes them cheap: batches that have ended, minutes that are over, dead letters, the last reports of
    workers that are gone, and how fast groups ended, which `left_s` is made of.
    """

    def __init__(
        self, *, connection: Connection, keys: Keys, assumed_tokens_per_s: float = ASSUMED_TOKENS_PER_S
    ) -> None:
        """`assumed_tokens_per_s`: the speed of a worker in the backlog until one was measured."""
        self._connection = connection
        self._assumed = assumed_tokens_per_s
        self._keys = keys
        self._workers = Workers(keys=keys)
        self._minutes = Minutes(keys=keys)
        self._batches = Batches(keys=keys)
        self._reached = Reached()
        self._queues = [Queue(keys=keys, partition=partition) for partition in range(keys.partitions)]
        self._letters = [Letters(keys=keys, partition=partition) for partition in range(keys.partitions)]

    async def read(self) -> Fleet:
        """One reading. What Redis refuses, for its type or for this user's rights, is missing and named in `problems`.

        Raises `RedisUnavailableError`.
        """
        return await self._connection.call("read the fleet", self._read)

    async def _read(self, redis: Redis) -> Fleet:
        began = time.perf_counter()
        rounds = Rounds(redis=redis)
        found, (memory, asked) = await asyncio.gather(rounds.run(self._parts(rounds)), read_memory(redis))
        now, workers, rate = rounds.now, found["workers"], found["rate"]
        paused_at = found["control"]
        partitions: list[PartitionSeen] = [found[f"partition {number}"] for number in range(self._keys.partitions)]
        letters = [found[f"dead letters {number}"] for number in range(self._keys.partitions)]
        open_tokens = sum(one.open_tokens for one in partitions)
        batches, num_batches = found["batches"]
        return Fleet(
            policy=self._keys.policy,
            read_at=now,
            paused=paused_at is not None,
            paused_s_ago=_ago(paused_at, now),
            queues=tuple(one.queue for one in partitions),
            open_groups=sum(one.open_groups for one in partitions),
            open_tokens=open_tokens,
            open_tokens_by_partition=tuple(one.open_tokens for one in partitions),
            backlog=self._backlog(rate, partitions, workers),
            rate=rate,
            minutes=found["history"],
            workers=workers,
            versions=self._reached.noted(versions_seen(found["versions"], workers, now), workers, now),
            batches=batches,
            num_batches=num_batches,
            letters=newest_of(letter for _, some in letters for letter in some),
            num_letters=sum(count for count, _ in letters),
            redis_memory=memory and memory[0],
            redis_memory_limit=memory and memory[1],
            problems=tuple(rounds.problems),
            commands=rounds.commands + asked,
            took_s=round(time.perf_counter() - began, 4),
        )

    def _backlog(
        self, rate: Rate, partitions: Sequence[PartitionSeen], workers: Iterable[FleetWorker]
    ) -> Backlog | None:
        if not all(one.is_counted for one in partitions):
            return None
        return backlog_of(
            rate,
            tokens=sum(one.open_tokens for one in partitions),
            groups=sum(one.open_groups for one in partitions),
            waiting=sum(one.queue.waiting or 0 for one in partitions),
            pending=sum(one.queue.pending for one in partitions),
            workers=num_working(workers),
            assumed=self._assumed,
        )

    def _parts(self, rounds: Rounds) -> dict[str, Part[Any]]:
        return {
            "control": self._paused(),
            "rate": self._rate(),
            "workers": self._workers.read(),
            "history": self._minutes.read(),
            "versions": read_versions(self._keys, rounds.note),
            "batches": self._batches.read(rounds.note),
            **{f"partition {number}": queue.read() for number, queue in enumerate(self._queues)},
            **{f"dead letters {number}": letters.read() for number, letters in enumerate(self._letters)},
        }

    def _paused(self) -> Part[bytes | None]:
        _, (values,) = yield [lambda pipe: pipe.hmget(self._keys.control(), [PAUSED_FIELD])]
        return values[0] if values else None

    def _rate(self) -> Part[Rate]:
        _, (values,) = yield [lambda pipe: pipe.hmget(self._keys.rate(), _RATE)]
        told = zip(_RATE, rows(values), strict=False)
        return Rate.of({name.encode(): value for name, value in told if value is not None})


def num_working(workers: Iterable[FleetWorker]) -> int:
    """How many workers answer jobs, or will in a moment: one that drains takes no more."""
    alive = (worker.report for worker in workers if worker.presence is not Presence.GONE)
    return sum(report.state not in (WorkerState.STARTING, WorkerState.DRAINING) for report in alive)


def _ago(value: bytes | None, now: float) -> float | None:
    moment = None if value is None else seconds_of(value)
    return None if moment is None else age_s(moment, now)
