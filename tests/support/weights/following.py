"""A version follower at work without a worker around it, and an engine that notes what it is asked to load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Prove, SwapMode
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import SwapFailedError
from rollstream.worker.versions.follower import VersionFollower
from rollstream.worker.weights.checkpoint import Content


class Recording(StubEngine):
    """Notes what is prepared and loaded; `hold`: folders whose preparation waits for `let_go`."""

    def __init__(self) -> None:
        super().__init__(WorkerSettings(policy="p", engine="stub"))
        self.calls: list[str] = []
        self.hold: set[str] = set()
        self.let_go = asyncio.Event()
        self.no_room = False

    async def prepare(self, path: Path, content: Content) -> None:
        self.calls.append(f"prepare {path.name}")
        assert content.sha256, "nobody read what is prepared"
        if path.name in self.hold:
            await self.let_go.wait()
        if self.no_room:
            raise SwapFailedError(path, 0, self.policy_version, "no memory to stage it")

    async def load_checkpoint(
        self, version: int, path: Path, mode: SwapMode, content: Content | None = None, prove: Prove | None = None
    ) -> float:
        self.calls.append(f"load {path.name}")
        return await super().load_checkpoint(version, path, mode, content, prove)


@asynccontextmanager
async def following(followed: VersionFollower) -> AsyncIterator[None]:
    """Until the end of this context, as in a worker."""
    await followed.begin()
    running = asyncio.create_task(followed.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


def served(followed: VersionFollower, version: int) -> Callable[[], bool]:
    return lambda: followed.serving.version == version


def prepared(followed: VersionFollower, version: int) -> Callable[[], bool]:
    return lambda: followed.prepared == version
