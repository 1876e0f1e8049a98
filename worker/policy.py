"""The newest complete version is served: what cannot be verified is refused by name, and the old one goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from schemas import Keys, NameRefusedError, PolicyVersion, SchemaError, decode
from schemas.errors import cut
from schemas.keys import check_name
from worker import checkpoint
from worker.adapter_supply import AdapterSupply
from worker.connections import cancelled, retrying
from worker.engine import Adapter, Engine, SwapMode
from worker.errors import CheckpointRefusedError, DataError, SettingsError, SwapFailedError, WorkerError

PERIOD_S = 0.4
CHANGED_S = 2.0
"""Between two tries of a checkpoint whose files change: a shared file system shows files late."""
FIRST_RETRY_S, LONGEST_RETRY_S = 10.0, 300.0
"""Between two tries of one that stays as it is."""
_AT_MOST = 16
"""Newer versions that are looked at: the newest of them that is complete is served."""

log = structlog.get_logger()


class VersionRefusedError(WorkerError):
    """Raised when an announced version is not what it is announced as, or this worker cannot reach it."""


@dataclass(frozen=True, slots=True)
class Served:
    """What an admitted job without an adapter of its own is sampled with."""

    version: int = 0
    adapter: Adapter | None = None
    """A version that was published as an adapter; None for a checkpoint, whose version the engine itself tells."""


@dataclass(slots=True)
class _Refusal:
    """Why a version is not served, and when it is tried again. Times are monotonic seconds."""

    why: str
    stamp: checkpoint.Stamp
    retry_s: float
    next_at: float
    looked_at: float


class Policy:
    """Follows the control stream. `serving` changes between two jobs; what runs is the engine's business."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        engine: Engine,
        adapters: AdapterSupply,
        checkpoints: Path | None,
        swap: SwapMode,
        changed: Callable[[], None],
    ) -> None:
        self._redis = redis
        self._versions_key = keys.versions()
        self._engine = engine
        self._adapters = adapters
        self._checkpoints = checkpoints
        self._swap = swap
        self._changed = changed
        self._refused: dict[int, _Refusal] = {}
        self._using = ExitStack()
        self.serving = Served()
        self.newest = 0
        """The newest version announced, whether it can be served or not."""

    def __repr__(self) -> str:
        return f"<Policy version={self.serving.version} newest={self.newest} refused={sorted(self._refused)}>"

    @property
    def error(self) -> str:
        """Why the newest version is not served; empty when it is, or when it is on its way."""
        refused = self._refused.get(self.newest)
        return refused.why if refused is not None and self.newest > self.serving.version else ""

    async def begin(self) -> None:
        """Serve the newest complete version before anything is admitted.

        Raises `EngineDiedError`, and `SettingsError` where waiting cannot help.
        """
        try:
            entries = await retrying("read the versions", self._read)
        except RedisError as error:
            raise SettingsError(f"{self._versions_key} is no stream: {error}") from None
        await self._serve_newest(entries)

    async def run(self) -> None:
        """Look until cancelled. A Redis that is away is no reason to stop. Raises `EngineDiedError`."""
        while not cancelled():
            await asyncio.sleep(PERIOD_S)
            await self.look()

    async def look(self) -> None:
        """Serve the newest complete version, if there is a newer one. Raises `EngineDiedError`."""
        try:
            await self._serve_newest(await self._read())
            if self.serving.adapter is not None:
                await self._adapters.renew(self.serving.adapter.name)
        except RedisError as error:
            log.debug("versions not read", error=str(error))

    async def _read(self) -> Any:
        after = f"({self.serving.version}-0"
        return await self._redis.xrevrange(self._versions_key, "+", after, count=_AT_MOST)

    async def _serve_newest(self, entries: Any) -> None:
        announced = [(_version(entry_id), fields.get(b"payload", b"")) for entry_id, fields in entries]
        versions = [(version, payload) for version, payload in announced if version is not None]
        self.newest = max([self.newest, *(version for version, _ in versions)])
        for version, payload in versions:
            if cancelled() or await self._try(version, payload):
                return

    async def _try(self, version: int, payload: bytes) -> bool:
        """Whether it is served now."""
        began = time.monotonic()
        stamp: checkpoint.Stamp = ()
        try:
            announced = _opened(version, payload)
            if not self._may_be_due(version, began):
                return False
            stamp = await self._stamp(announced)
            if not self._is_due(version, stamp, began):
                return False
            log.info("loading policy version", version=version, source=announced.source, location=announced.location)
            adapter = await self._load(announced, stamp)
        except (VersionRefusedError, CheckpointRefusedError, SwapFailedError, DataError) as error:
            self._refuse(version, str(error), stamp)
            return False
        self.serving = Served(version, adapter)
        self._refused = {refused: why for refused, why in self._refused.items() if refused > version}
        log.info("policy version served", version=version, seconds=round(time.monotonic() - began, 3))
        self._changed()
        return True

    def _may_be_due(self, version: int, now: float) -> bool:
        """Spares a shared file system the question."""
        refused = self._refused.get(version)
        return refused is None or now - refused.looked_at >= CHANGED_S

    def _is_due(self, version: int, stamp: checkpoint.Stamp, now: float) -> bool:
        refused = self._refused.get(version)
        if refused is None:
            return True
        refused.looked_at = now
        return stamp != refused.stamp or now >= refused.next_at

    def _refuse(self, version: int, problem: str, stamp: checkpoint.Stamp) -> None:
        log.error("policy version refused, serving on", version=version, serving=self.serving.version, why=problem)
        before, now = self._refused.get(version), time.monotonic()
        again = before is not None and before.stamp == stamp
        retry_s = min(2 * before.retry_s, LONGEST_RETRY_S) if before is not None and again else FIRST_RETRY_S
        self._refused[version] = _Refusal(cut(problem), stamp, retry_s, now + retry_s, now)
        self._changed()

    async def _stamp(self, announced: PolicyVersion) -> checkpoint.Stamp:
        if announced.source == "adapter":
            return ()
        return await asyncio.to_thread(checkpoint.stamp, self._folder(announced.location))

    async def _load(self, announced: PolicyVersion, stamp: checkpoint.Stamp) -> Adapter | None:
        if self.serving.version and (announced.source == "adapter") != (self.serving.adapter is not None):
            raise VersionRefusedError(
                f"version {announced.version} is published as {announced.source}, {self.serving.version} was not: an "
                "adapter belongs to the model that workers boot with; publish one kind only, or start the workers again"
            )
        if announced.source == "adapter":
            return await self._load_adapter(announced)
        await self._load_checkpoint(announced, stamp)
        return None

    async def _load_adapter(self, announced: PolicyVersion) -> Adapter:
        with ExitStack() as stack:
            stack.enter_context(self._adapters.in_use(announced.location))
            adapter = await self._adapters.load(announced.location, announced.sha256)
            self._using, before = stack.pop_all(), self._using
        before.close()
        return adapter

    async def _load_checkpoint(self, announced: PolicyVersion, stamp: checkpoint.Stamp) -> None:
        folder = self._folder(announced.location)
        given_up = threading.Event()
        try:
            digest = await asyncio.to_thread(checkpoint.digest, folder, given_up)
        finally:
            given_up.set()
        if digest != announced.sha256 or await asyncio.to_thread(checkpoint.stamp, folder) != stamp:
            problem = "its files are not those that were published: half-written, or changed since"
            raise VersionRefusedError(f"checkpoint {announced.location}: {problem}")
        await self._engine.load_checkpoint(announced.version, folder, self._swap)

    def _folder(self, location: str) -> Path:
        if self._checkpoints is None:
            raise VersionRefusedError(
                "a checkpoint was published, but this worker was started without --checkpoint-dir"
            )
        try:
            return self._checkpoints / check_name("checkpoint", location)
        except NameRefusedError as error:
            raise VersionRefusedError(str(error)) from None


def _version(entry_id: bytes) -> int | None:
    """Of an entry `<version>-0`; None for one that nobody can have announced."""
    version, _, rest = entry_id.partition(b"-")
    return int(version) if rest == b"0" and len(version) <= 10 and int(version) < 2**31 else None


def _opened(version: int, payload: bytes) -> PolicyVersion:
    try:
        announced = decode(payload, PolicyVersion)
    except SchemaError as error:
        raise VersionRefusedError(f"its announcement cannot be read: {error}") from None
    if announced.version != version:
        raise VersionRefusedError(f"its announcement is that of version {announced.version}")
    return announced
