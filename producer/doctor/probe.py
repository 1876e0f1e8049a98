"""Reads everything that the doctor judges. It judges nothing and never writes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from redis import exceptions
from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import MAX_VERSION, EntryId
from rollstream.schemas.keys import GROUP, totals
from rollstream.schemas.lease import DEFAULT_LEASE_S
from rollstream.schemas.parked import ParkedFor, is_parked
from rollstream.transport.acl import Right, Role, missing_rights
from rollstream.transport.acl.refused import is_denied
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.faults import NOT_REACHED, fault_of
from rollstream.transport.redis.primary import sentinel_answers
from rollstream.transport.redis.sentinel_answers import Primary

from ..errors import RedisUnavailableError
from ..operations.lease import read_lease
from ..operations.queue_state import WorkerSeen, read_paused, read_queue, seen_workers
from ..policies.activation import newest_version
from ..policies.live_workers import live_names, read_reports
from ..policies.versions_stream import RECENT, announced_versions
from ..redis_io.connection import Connection
from ..runs.read_runs import RunSeen, read_runs
from .batch_checks import troubled_batches
from .questions import ended_streams, of_each, read_appendfsync, read_clock, read_info, read_types, time_pings
from .seen import ConsumerSeen, NodeSeen, PartitionSeen, PendingVersion, Probe, Refusal, SentinelSeen

_MOST_PARTITIONS = 1024
_PINGS = 7
_MOST_STRANDED = 1000

T = TypeVar("T")


async def probe(redis: RedisAccess | str, keys: Keys, lease_s: float | None, role: Role = Role.OPERATOR) -> Probe:
    """Read all. `lease_s` None: the lease that the workers agreed on; `role`: what this user is for.

    Raises `RedisUnavailableError`.
    """
    connection = Connection(access=redis, reconnect_s=0)
    try:
        return await _Prober(connection=connection, keys=keys, lease_s=lease_s, role=role).look()
    finally:
        await connection.aclose()


class _Prober:
    """Goes on when Redis refuses a command, and notes the refusal."""

    def __init__(self, *, connection: Connection, keys: Keys, lease_s: float | None, role: Role) -> None:
        self._connection = connection
        self._keys = keys
        self._lease_s = lease_s
        self._role = role
        self._refusals: list[Refusal] = []

    async def look(self) -> Probe:
        round_trips = await self._connection.call("ping", time_pings)
        ahead, now = await self._try("read the clock", read_clock, (0.0, time.time()))
        workers: list[str] = await self._try("list the workers", partial(live_names, keys=self._keys), [])
        expected = self._expected(workers)
        nothing: dict[str, str] = {}
        types = await self._try("read the types of keys", partial(read_types, keys=expected), nothing)
        wrong = {key: (expected[key], found) for key, found in types.items() if found not in ("none", expected[key])}
        paused, paused_s_ago = await self._paused(wrong, now)
        agreed, lease_problem = await self._lease(wrong)
        self._lease_s = self._lease_s or agreed or DEFAULT_LEASE_S
        newest_version, pending = await self._versions(wrong, now)
        primary = self._connection.primary
        return Probe(
            url=self._connection.url,
            policy=self._keys.policy,
            nodes=await self._nodes(),
            round_trips_s=round_trips,
            clock_ahead_s=ahead,
            role=self._role,
            user=self._connection.user,
            refused_rights=await self._try("ask for rights", self._rights, {}),
            wrong_types=wrong,
            partitions=await self._partitions(wrong, now),
            beyond=await self._try("look for other partitions", self._beyond, ()),
            workers=await self._workers(workers, now),
            newest_version=newest_version,
            pending=pending,
            primary="{}:{}".format(*primary.address) if primary else "",
            told_by=primary.told_by if primary else "",
            sentinels=await self._try("ask the Sentinels", _sentinels, ()),
            is_unchecked=self._connection.access.place().is_unchecked,
            redis_wait=self._connection.access.wait,
            paused=paused,
            paused_s_ago=paused_s_ago,
            lease_s=self._lease_s,
            lease_agreed=agreed,
            lease_problem=lease_problem,
            no_version=await self._no_version(wrong),
            batches=await self._try("read the batches", partial(troubled_batches, keys=self._keys), ()),
            runs=await self._runs(wrong),
            refusals=tuple(self._refusals),
        )

    async def _runs(self, wrong: Mapping[str, object]) -> tuple[RunSeen, ...]:
        if self._keys.runs() in wrong:
            return ()
        return tuple(await self._try("read the runs", partial(read_runs, keys=self._keys), []))

    async def _rights(self, redis: Redis) -> Mapping[Right, str]:
        return await missing_rights(redis, self._role, self._keys, _is_refusal)

    async def _paused(self, wrong: Mapping[str, object], now: float) -> tuple[bool, float | None]:
        if self._keys.control() in wrong:
            return False, None
        return await self._try("read the control hash", partial(read_paused, keys=self._keys, now=now), (False, None))

    async def _lease(self, wrong: Mapping[str, object]) -> tuple[float | None, str]:
        if self._keys.control() in wrong:
            return None, ""
        return await self._try("read the lease", partial(read_lease, keys=self._keys), (None, ""))

    async def _nodes(self) -> tuple[NodeSeen, ...]:
        infos: dict[str, dict[str, str]] = await self._try("run INFO", of_each(read_info), {})
        fsyncs: dict[str, str] = await self._try("run CONFIG GET", of_each(read_appendfsync), {})
        return tuple(
            NodeSeen(name=name, info=infos.get(name, {}), appendfsync=fsyncs.get(name, "")) for name in infos | fsyncs
        )

    async def _versions(self, wrong: Mapping[str, object], now: float) -> tuple[int | None, tuple[PendingVersion, ...]]:
        """The newest active version, and those announced after it."""
        if {self._keys.versions(), self._keys.activations()} & wrong.keys():
            return None, ()

        async def read() -> tuple[int, tuple[PendingVersion, ...]]:
            newest = await newest_version(self._connection, self._keys)
            recent = await announced_versions(self._connection, self._keys, RECENT)
            later = [one.announcement for one in recent if one.version > newest and one.announcement is not None]
            return newest, tuple(
                PendingVersion(
                    version=one.version, activate=one.activate, announced_s_ago=max(0.0, now - one.published_at)
                )
                for one in later
                if one.activate.when != "at_once"  # announced between the two reads
            )

        return await self._settled("read the versions", read(), (None, ()))

    async def _no_version(self, wrong: Mapping[str, object]) -> str:
        async def read(redis: Redis) -> str:
            found: Any = await redis.xrange(self._keys.versions(), str(EntryId(MAX_VERSION + 1)), "+", count=1)
            return found[0][0].decode() if found else ""

        return "" if self._keys.versions() in wrong else await self._try("read the versions", read, "")

    async def _try(self, what: str, command: Callable[[Redis], Awaitable[T]], default: T) -> T:
        return await self._settled(what, self._connection.call(what, command), default)

    async def _settled(self, what: str, answer: Awaitable[T], default: T) -> T:
        try:
            return await answer
        except RedisUnavailableError as error:
            if fault_of(error.__cause__) in NOT_REACHED:
                raise
            self._refusals.append(
                Refusal(
                    what=what,
                    problem=error.problem,
                    advice=error.advice,
                    is_denied=isinstance(error.__cause__, exceptions.NoPermissionError),
                )
            )
            return default

    def _expected(self, workers: list[str]) -> dict[str, str]:
        """The Redis type that each key must have, if the key exists."""
        partitions = range(self._keys.partitions)
        streams = [key(p) for p in partitions for key in (self._keys.jobs, self._keys.dead)]
        sums = [key for p in partitions for key in (totals(self._keys.jobs(p)), self._keys.part_bytes(p))]
        hashes = [self._keys.control(), self._keys.rate(), *sums, *map(self._keys.worker, workers)]
        indexes = [self._keys.workers(), self._keys.runs(), *map(self._keys.batches, partitions)]
        types = {"stream": [*streams, self._keys.versions(), self._keys.activations()], "hash": hashes, "zset": indexes}
        return {key: kind for kind, keys in types.items() for key in keys}

    async def _workers(self, names: list[str], now: float) -> tuple[WorkerSeen, ...]:
        read = partial(read_reports, keys=self._keys, names=names)
        return tuple(seen_workers(await self._try("read the workers", read, {}), now))

    async def _partitions(self, wrong: Mapping[str, object], now: float) -> tuple[PartitionSeen, ...]:
        seen = []
        for number in range(self._keys.partitions):
            if not {self._keys.jobs(number), self._keys.dead(number)} & wrong.keys():
                look = self._partition(number, now)
                seen.append(await self._try(f"read partition {number}", look, None))
        return tuple(partition for partition in seen if partition is not None)

    def _partition(self, number: int, now: float) -> Callable[[Redis], Awaitable[PartitionSeen | None]]:
        async def look(redis: Redis) -> PartitionSeen:
            ended = await ended_streams(redis, [self._keys.jobs(number), self._keys.dead(number)])
            jobs, stranded_ms = self._keys.jobs(number), int(1500 * (self._lease_s or DEFAULT_LEASE_S))
            queue = await read_queue(redis, self._keys, number, now)
            try:
                rows: Any = await redis.xinfo_consumers(jobs, GROUP)
            except exceptions.ResponseError as error:
                if "no such key" in str(error) or str(error).startswith("NOGROUP"):
                    return PartitionSeen(queue=queue, group=False, consumers=(), stranded=0, ended=ended)
                raise
            named = [(_text(row["name"]), row["pending"]) for row in rows]
            consumers = tuple(
                ConsumerSeen(name=name, pending=pending) for name, pending in named if not is_parked(name)
            )
            idle: Any = await redis.xpending_range(jobs, GROUP, "-", "+", _MOST_STRANDED, idle=stranded_ms)
            stranded = [row for row in idle if ParkedFor.of(_text(row["consumer"])) is None]
            return PartitionSeen(queue=queue, group=True, consumers=consumers, stranded=len(stranded), ended=ended)

        return look

    async def _beyond(self, redis: Redis) -> tuple[int, ...]:
        numbers = range(self._keys.partitions, _MOST_PARTITIONS)
        async with redis.pipeline(transaction=False) as pipe:
            for number in numbers:
                pipe.exists(self._keys.jobs(number))
            found = await pipe.execute()
        return tuple(number for number, exists in zip(numbers, found, strict=True) if exists)


async def _sentinels(redis: Redis) -> tuple[SentinelSeen, ...]:
    """What each Sentinel of the URL says; nothing without Sentinels."""
    return tuple(
        SentinelSeen(name=said.told_by, primary=str(said))
        if isinstance(said, Primary)
        else SentinelSeen(problem=said.problem)
        for said in await sentinel_answers(redis)
    )


def _is_refusal(reply: object) -> bool:
    """Whether the user lacks the right, the server lacks the command, or it refuses all writes just now."""
    return is_denied(reply) or (isinstance(reply, exceptions.RedisError) and fault_of(reply).passes)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
