"""The newest complete version is served: what cannot be verified is refused by name, and the old one goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from schemas import Keys, NameRefusedError, PolicyVersion, SchemaError, decode
from schemas.keys import check_name
from worker import checkpoint
from worker.connections import retrying
from worker.engine import Adapter, Engine, SwapMode
from worker.errors import CheckpointRefusedError, DataError, SwapFailedError, WorkerError

PERIOD_S = 0.4
RETRY_S = 10.0
"""A version that was refused may be complete later: a shared file system shows files late."""
_AT_MOST = 16
"""Newer versions that are looked at: the newest of them that is complete is served."""

log = structlog.get_logger()


class VersionRefusedError(WorkerError):
    """Raised when an announced version is not what it is announced as, or this worker cannot reach it."""


@dataclass(frozen=True, slots=True)
class Served:
    """What an admitted job without an adapter of its own is sampled with."""

    version: int
    adapter: Adapter | None
    """A version that was published as an adapter; None for a checkpoint, whose version the engine itself tells."""


class Policy:
    """Follows the control stream. `serving` changes between two jobs; what runs is the engine's business."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        engine: Engine,
        checkpoints: Path | None,
        swap: SwapMode,
        adapter: Callable[[str, str], Awaitable[Adapter]],
    ) -> None:
        self._redis = redis
        self._versions_key = keys.versions()
        self._engine = engine
        self._checkpoints = checkpoints
        self._swap = swap
        self._adapter = adapter
        self._refused: dict[int, tuple[float, str]] = {}
        self.serving = Served(0, None)
        self.newest = 0
        """The newest version announced, whether it can be served or not."""

    def __repr__(self) -> str:
        return f"<Policy version={self.serving.version} newest={self.newest} refused={sorted(self._refused)}>"

    @property
    def error(self) -> str:
        """Why the newest version is not served; empty when it is, or when it is on its way."""
        _, problem = self._refused.get(self.newest, (0.0, ""))
        return problem if self.newest > self.serving.version else ""

    async def begin(self) -> None:
        """Serve the newest complete version before anything is admitted."""
        await retrying("read the versions", self.look)

    async def run(self) -> None:
        """Look until cancelled. A Redis that is away is no reason to stop."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.look()
            except RedisError as error:
                log.debug("versions not read", error=str(error))

    async def look(self) -> None:
        """Swap to the newest version that is complete. Raises `RedisError`, `EngineDiedError`."""
        after = f"({self.serving.version}-0"
        entries: Any = await self._redis.xrevrange(self._versions_key, "+", after, count=_AT_MOST)
        for entry_id, fields in entries:
            version = int(entry_id.partition(b"-")[0])
            self.newest = max(self.newest, version)
            refused_at, _ = self._refused.get(version, (-RETRY_S, ""))
            if time.monotonic() - refused_at < RETRY_S:
                continue
            if await self._try(version, fields.get(b"payload", b"")):
                break

    async def _try(self, version: int, payload: bytes) -> bool:
        """Whether it is served now."""
        began = time.monotonic()
        try:
            announced = _read(version, payload)
            adapter = await self._load(announced)
        except (VersionRefusedError, CheckpointRefusedError, SwapFailedError, DataError) as error:
            log.error(
                "policy version refused, serving on", version=version, serving=self.serving.version, why=str(error)
            )
            self._refused[version] = time.monotonic(), str(error)
            return False
        self.serving = Served(version, adapter)
        self._refused = {refused: why for refused, why in self._refused.items() if refused > version}
        log.info("policy version served", version=version, seconds=round(time.monotonic() - began, 3))
        return True

    async def _load(self, announced: PolicyVersion) -> Adapter | None:
        if announced.source == "adapter":
            adapter = await self._adapter(announced.location, announced.sha256)
            await self._engine.load_adapter(adapter)
            return adapter
        folder = self._folder(announced.location)
        if await asyncio.to_thread(checkpoint.digest, folder) != announced.sha256:
            problem = "its files do not match the digest it was published with: half-written, or changed since"
            raise VersionRefusedError(f"checkpoint {announced.location}: {problem}")
        await self._engine.load_checkpoint(announced.version, folder, self._swap)
        return None

    def _folder(self, location: str) -> Path:
        if self._checkpoints is None:
            raise VersionRefusedError(
                "a checkpoint was published, but this worker was started without --checkpoint-dir"
            )
        try:
            return self._checkpoints / check_name("checkpoint", location)
        except NameRefusedError as error:
            raise VersionRefusedError(str(error)) from None


def _read(version: int, payload: bytes) -> PolicyVersion:
    try:
        announced = decode(payload, PolicyVersion)
    except SchemaError as error:
        raise VersionRefusedError(f"its announcement cannot be read: {error}") from None
    if announced.version != version:
        raise VersionRefusedError(f"its announcement is that of version {announced.version}")
    return announced
