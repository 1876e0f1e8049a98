"""Load on a cluster while its nodes change places: a real submitter with readers, and the audit of what came of it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from redis.asyncio import Redis

from rollstream import AsyncClient, BatchHandle, GenerationConfig
from rollstream.producer.errors import ProducerError
from rollstream.schemas import GroupError, GroupResult, Keys, Sealed, decode
from rollstream.schemas.keys import GROUP
from rollstream.transport.redis import connected

GROUPS = 8
"""Groups of a batch, each a job of its own."""
AT_ONCE = 12
"""Batches under way."""
READ_S = 60
"""The longest that a batch may take, a failover included."""


@dataclass
class Outcome:
    """What the submitter was told, batch by batch."""

    read: dict[str, int] = field(default_factory=dict)
    """Groups that a reader got, by batch."""
    lost: dict[str, str] = field(default_factory=dict)
    """Acknowledged batches that a reader was told to be lost, with the name of the error."""
    refused: Counter[str] = field(default_factory=Counter)
    """Submits that were never acknowledged, by the name of the error."""

    @property
    def acknowledged(self) -> list[str]:
        return [*self.read, *self.lost]


class Load:
    """Submits batches to one cluster and reads them until the block ends, in a thread of its own.

    `of`: the partition that all batches go to; None: each in turn. `wait`: replicas that must have a submission. At the
    end every acknowledged batch was read, or its reader has named it lost.
    """

    def __init__(self, url: str, keys: Keys, *, of: int | None = None, wait: int = 0) -> None:
        self.outcome = Outcome()
        self._wait = wait
        self._url, self._keys, self._of = url, keys, of
        self._over = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._submit_all, name="submitter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join(2 * READ_S)
        if self._failed:
            raise self._failed[0]
        assert not self._thread.is_alive(), "batches are neither answered nor lost"

    def wait_for_more(self, batches: int = 1, timeout_s: float = 30) -> None:
        """Return once so many more batches were answered."""
        wanted = len(self.outcome.read) + batches
        over = threading.Event()
        for _ in range(round(timeout_s / 0.02)):
            if len(self.outcome.read) >= wanted or self._failed:
                return
            over.wait(0.02)
        raise AssertionError(f"{len(self.outcome.read)} of {wanted} batches answered; {self.outcome}")

    def _submit_all(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self._failed.append(error)

    async def _run(self) -> None:
        room, names = asyncio.Semaphore(AT_ONCE), _names(self._keys, self._of)
        async with (
            AsyncClient(
                self._url, policy=self._keys.policy, partitions=self._keys.partitions, redis_wait=self._wait
            ) as client,
            asyncio.TaskGroup() as readers,
        ):
            while not self._over.is_set():
                await room.acquire()
                handle = await self._submitted(client, names())
                if handle is None:
                    room.release()
                    continue
                readers.create_task(self._read(handle)).add_done_callback(lambda _: room.release())

    async def _submitted(self, client: AsyncClient, batch_id: str) -> BatchHandle | None:
        prompts = [[5 + row] for row in range(GROUPS)]
        config = GenerationConfig(max_new_tokens=10, ignore_eos=True, seed=1)
        try:
            return await client.submit(prompts, None, config, batch_id=batch_id, prompts_per_job=1)
        except ProducerError as error:
            self.outcome.refused[type(error).__name__] += 1
            return None

    async def _read(self, handle: BatchHandle) -> None:
        try:
            self.outcome.read[handle.batch_id] = len(await handle.wait(timeout=READ_S))
        except ProducerError as error:
            self.outcome.lost[handle.batch_id] = type(error).__name__


@dataclass
class Audit:
    """What Redis holds of the batches that were read."""

    groups: int = 0
    redelivered: int = 0
    gone: int = 0
    """Batches that Redis does not know any more."""
    problems: list[str] = field(default_factory=list)


async def audit(url: str, keys: Keys, outcome: Outcome) -> Audit:
    """One answer a group, then the seal, nothing pending; every reader got every group."""
    found = Audit()
    redis: Redis = connected(url, protocol=2)
    async with redis:
        for batch_id, groups in outcome.read.items():
            if not await redis.exists(keys.ledger(batch_id)):
                found.gone += 1
                continue
            rows: Any = await redis.xrange(keys.results(batch_id))
            _audit_batch(found, batch_id, groups, [fields[b"payload"] for _, fields in rows])
        for partition in range(keys.partitions):
            pending: Any = await redis.xpending(keys.jobs(partition), GROUP)
            if pending["pending"]:
                found.problems.append(f"{pending['pending']} jobs are pending in partition {partition}")
    return found


def _audit_batch(found: Audit, batch_id: str, read: int, payloads: list[bytes]) -> None:
    records = [decode(payload, GroupResult, GroupError, Sealed) for payload in payloads]
    results = [record for record in records if isinstance(record, GroupResult)]
    found.groups += len(results)
    found.redelivered += sum(result.delivery > 1 for result in results)
    groups = sorted(result.group for result in results)
    sealed = [place for place, record in enumerate(records) if isinstance(record, Sealed)]
    if groups != list(range(GROUPS)) or sealed != [GROUPS] or read != GROUPS:
        found.problems.append(f"{batch_id}: groups {groups}, seal at {sealed}, {read} read")


def _names(keys: Keys, of: int | None) -> Callable[[], str]:
    """Makes batch ids of the partition `of`, or of each partition in turn."""
    numbers = iter(range(1_000_000))
    partitions = iter(range(1_000_000))

    def name() -> str:
        wanted = next(partitions) % keys.partitions if of is None else of
        return next(name for number in numbers if keys.partition(name := f"load-{number}") == wanted)

    return name
