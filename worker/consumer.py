"""Reads a job when the engine has room, and finds again what Redis delivered while the connection broke."""

from __future__ import annotations

import asyncio

import structlog
from redis.asyncio import Redis

from schemas import Envelope, Keys, WireError
from worker import streams
from worker.admission import Admission
from worker.connections import RETRYABLE, retrying
from worker.dead_letters import DeadLetters
from worker.errors import DataError
from worker.intake import open_job
from worker.lease import Lease
from worker.rollout import Rollout, Task
from worker.streams import Entry, GroupMissingError

log = structlog.get_logger()


class Consumer:
    """One name in the consumer group `workers`, over every partition of the policy."""

    def __init__(
        self, blocking: Redis, commands: Redis, keys: Keys, name: str, admission: Admission, rollout: Rollout
    ) -> None:
        self._blocking = blocking
        self._commands = commands
        self._policy = keys.policy
        self._name = name
        self._admission = admission
        self._rollout = rollout
        self._dead_letters = DeadLetters(commands, keys.policy)
        self._dead_keys = {keys.jobs(p): keys.dead(p) for p in range(keys.partitions)}
        self._held: set[str] = set()
        self._reader: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Consumer {self._name} policy={self._policy} jobs={self.jobs} {self._admission!r}>"

    @property
    def jobs(self) -> int:
        """Jobs held, running or waiting for the engine."""
        return len(self._held)

    async def run(self) -> None:
        """Take jobs until `stop`, then return once those taken are answered.

        Raises what a job raises, `EngineDiedError` above all, after cancelling the others.
        """
        async with asyncio.TaskGroup() as jobs:
            self._reader = jobs.create_task(self._take_jobs(jobs))

    def stop(self) -> None:
        """Read nothing more; what was taken goes on."""
        self._admission.close()
        if self._reader is not None:
            self._reader.cancel()

    async def _take_jobs(self, jobs: asyncio.TaskGroup) -> None:
        try:
            await self._create_groups()
            while await self._admission.room():
                for entry in await self._read():
                    await self._take(jobs, entry)
        except asyncio.CancelledError:
            if not self._admission.closed:
                raise
            # The read that was cut short may have been answered: then the job is ours, and nobody else can see it.
            for entry in await self._unseen():
                await self._take(jobs, entry)

    async def _read(self) -> list[Entry]:
        try:
            return await streams.read_new(self._blocking, self._name, self._dead_keys)
        except RETRYABLE as error:
            log.warning("redis does not answer, reading again", error=str(error))
            return await self._unseen()
        except GroupMissingError:
            log.warning("consumer group is gone, creating it again at 0")
            await self._create_groups()
            return []

    async def _create_groups(self) -> None:
        for jobs_key in self._dead_keys:
            await retrying("create group", streams.create_group, self._commands, jobs_key)

    async def _unseen(self) -> list[Entry]:
        """Entries on our own pending list that we do not hold: their reply was lost, and `>` never returns them."""
        found: list[Entry] = []
        for jobs_key in self._dead_keys:
            try:
                pending = await retrying("sweep", streams.pending_ids, self._commands, self._name, jobs_key)
            except GroupMissingError:
                continue
            for entry_id in pending:
                if self._held_name(jobs_key, entry_id) not in self._held:
                    found += await retrying("sweep", streams.read_again, self._commands, jobs_key, entry_id)
        return found

    async def _take(self, jobs: asyncio.TaskGroup, entry: Entry) -> None:
        lease = Lease(entry.jobs_key, self._dead_keys[entry.jobs_key], entry.entry_id, self._name, delivery=1)
        try:
            task = await self._open(lease, entry)
        except WireError as error:
            await self._dead_letters.bury(lease, entry.fields, error, acknowledge=True)
            return
        jobs.create_task(self._run(task))
        # Its first step admits the job's sequences; only then is it known whether there is room for another.
        await asyncio.sleep(0)

    async def _open(self, lease: Lease, entry: Entry) -> Task:
        envelope = Envelope.of(entry.fields)
        try:
            return Task(lease, envelope, open_job(envelope, entry.fields))
        except DataError as error:
            if isinstance(error.__cause__, WireError):
                await self._dead_letters.bury(lease, entry.fields, error.__cause__, acknowledge=False)
            return Task(lease, envelope, error)

    async def _run(self, task: Task) -> None:
        held = self._held_name(task.lease.jobs_key, task.lease.entry_id)
        self._held.add(held)
        try:
            await self._rollout.run(task)
        finally:
            self._held.discard(held)

    @staticmethod
    def _held_name(jobs_key: str, entry_id: str) -> str:
        return f"{jobs_key}/{entry_id}"
