"""A receiver of rounds, its engine, and a store whose files come when a test says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

from redis.asyncio import Redis

from rollstream.producer.rounds.lead import RoundLeader
from rollstream.schemas import Keys
from rollstream.worker.checkpoints.supply import CheckpointSupply, Prepared, Wanted
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Incoming
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.rounds.receiver import RoundReceiver
from rollstream.worker.weights.checkpoint import Content
from tests.support.weights.rounds import SHA256, HeldMeeting

WANTED = Wanted(version=1, location="1-5a", sha256=SHA256, transport="store")


class Files(CheckpointSupply):
    """A store whose files come when the test says so."""

    def __init__(self) -> None:
        super().__init__(folder=None)
        self.here = asyncio.Event()
        self.refuses: Exception | None = None
        self.asked = 0

    async def prepare(self, wanted: Wanted) -> Prepared:
        self.asked += 1
        await self.here.wait()
        if self.refuses is not None:
            raise self.refuses
        return Prepared(folder=Path("/there"), content=Content(files=(), sha256=wanted.sha256))


class Engine(StubEngine):
    """Notes where the files of what it serves are."""

    def __init__(self) -> None:
        super().__init__(WorkerSettings(policy="p", engine="stub", weight_transfer="gloo", weights="redis"))
        self.folder: Path | None = None
        self.lost_version: int | None = None

    async def link(self, _incoming: Incoming, _over: asyncio.Event) -> None:
        self._link = HeldMeeting().link(2)

    async def located(self, _version: int, path: Path, _content: Content) -> None:
        self.folder = path

    async def lost(self, version: int) -> None:
        self.lost_version = version


def receiver_of(redis: Redis, keys: Keys, files: Files, consumer: str = "w-1") -> RoundReceiver:
    return RoundReceiver(redis=redis, keys=keys, consumer=consumer, backend="gloo", engine=Engine(), checkpoints=files)


async def led(leader: RoundLeader, *expected: str) -> asyncio.Task[object]:
    await leader.open()
    return asyncio.create_task(leader.lead(frozenset(expected)))
