"""Serve the newest complete version. One that cannot be verified is refused by name, and the old one is served on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

import structlog
from redis.exceptions import RedisError

from ..adapters.supply import AdapterSupply
from ..checkpoints.supply import CheckpointSupply, Wanted
from ..engine import Adapter, Engine, SwapMode
from ..errors import SettingsError, VersionRefusedError
from ..measure.measures import Measures
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled, retrying
from ..weights import checkpoint
from .announcements import BOOTED, Announced, Announcements, started_again, to_serve
from .retries import CHANGED_S, REFUSED, Refusal, is_due, refusal

PERIOD_S = 0.1

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The version that samples an admitted job without an adapter of its own."""

    announced: Announced = BOOTED
    adapter: Adapter | None = None
    """The adapter, if the version was published as one; None for a checkpoint, whose version the engine knows."""

    @property
    def version(self) -> int:
        """The version's number; 0 is the boot model."""
        return self.announced.version


class VersionFollower:
    """Follows the versions stream. `serving` changes between two jobs; what runs is the engine's business.

    Two tasks of the worker change it. A look, one at a time, reads the announcements and decides whether what is
    served stands among them (`adrift`). A load, one at a time, sets `serving` and the refusals, and holds the
    adapter that is served. Others only read, but for `swapped`, which is cleared by the task that waits for it.
    """

    def __init__(
        self,
        *,
        announcements: Announcements,
        engine: Engine,
        adapters: AdapterSupply,
        checkpoints: CheckpointSupply,
        swap: SwapMode,
        changed: Callable[[], None],
        measures: Measures,
    ) -> None:
        self._announcements = announcements
        self._engine = engine
        self._adapters = adapters
        self._checkpoints = checkpoints
        self._swap = swap
        self._changed = changed
        self._measures = measures
        self._refused: dict[Announced, Refusal] = {}
        self._using = ExitStack()
        self._looking = asyncio.Lock()
        self._looked_at = 0.0
        self._load_due = asyncio.Event()
        self.serving = Served()
        self.loading: int | None = None
        """The version that is read or loaded now."""
        self.adrift = False
        """Whether the served version is not in the stream: at boot, or after the stream was replaced. Then no job is
        admitted."""
        self.swapped = asyncio.Event()
        """Set whenever a new version is served; the waiting role clears it."""

    def __repr__(self) -> str:
        refused = sorted(one.version for one in self._refused)
        seen = f"version={self.serving.version} newest={self.newest} adrift={self.adrift} refused={refused}"
        return f"<VersionFollower {seen}>"

    @property
    def newest(self) -> int:
        """The newest announced version, whether it can be served or not."""
        return self._announcements.newest

    @property
    def error(self) -> str:
        """Why the newest version was refused; empty if it is served, or still loads."""
        refused = [self._refused[one] for one in self._announcements.versions[:1] if one in self._refused]
        return refused[0].why if refused else ""

    async def begin(self) -> None:
        """Serve the newest complete version before any job is admitted; if none is complete, stay adrift.

        Raises `EngineDiedError`, and `SettingsError` if waiting cannot help.
        """
        try:
            await retrying("read the versions", self._announcements.read)
        except RedisError as error:
            raise SettingsError(f"{self._announcements.key} is no stream: {error}") from None
        self.adrift = bool(self._announcements.versions)
        await self._serve_newest()
        if self.adrift:
            log.warning("nothing announced can be served, no job is taken until then", newest=self.newest)
        self._changed()

    async def run(self) -> None:
        """Look until cancelled, even while a version loads or Redis is away. Raises `EngineDiedError`."""
        async with asyncio.TaskGroup() as loads:
            loading = loads.create_task(self._serve_newest())
            while not cancelled():
                with suppress(TimeoutError):
                    async with asyncio.timeout(PERIOD_S):
                        await self._load_due.wait()
                await self.look()
                if loading.done() and self._due():
                    loading = loads.create_task(self._serve_newest())
                self._load_due.clear()
            loading.cancel()  # otherwise the group would wait for it

    async def look(self) -> None:
        """Read all announcements made before this call. Callers that come during a look share the next one."""
        asked_at = time.monotonic()
        async with self._looking:
            if self._looked_at > asked_at:
                return
            began = time.monotonic()
            try:
                await self._announcements.read()
            except RedisError as error:
                if cancelled():
                    raise asyncio.CancelledError from error
                FAILED.add()
                log.debug("versions not read", error=str(error))
            self._looked_at = began
            self._settle()
            if self._due():
                self._load_due.set()
            if self.serving.adapter is not None:
                await self._adapters.renew(self.serving.adapter.name)

    def _settle(self) -> None:
        announced, served = self._announcements.versions, self.serving.announced
        if self.adrift and served in announced:
            log.info("jobs are taken again, the served version is in the versions stream", serving=served.version)
            self.adrift = False
        elif not self.adrift and started_again(announced, served):
            log.warning(
                "the versions stream started again, no job is taken until one of its versions is served",
                serving=served.version,
                newest=self.newest,
            )
            self.adrift = True
        else:
            return
        self._changed()

    def _candidates(self) -> list[Announced]:
        return to_serve(self._announcements.versions, self.serving.announced, adrift=self.adrift)

    def _due(self) -> bool:
        now = time.monotonic()
        return any(is_due(self._refused.get(one), now) for one in self._candidates())

    async def _serve_newest(self) -> None:
        announced = self._announcements.versions
        for one in self._candidates():
            # New announcements come first.
            if cancelled() or self._announcements.versions is not announced or await self._try(one):
                return

    async def _try(self, announced: Announced) -> bool:
        """Try to serve a version. Returns whether it is served now."""
        began, before = time.monotonic(), self._refused.get(announced)
        stamp: checkpoint.Stamp = ()
        if not is_due(before, began):
            return False
        try:
            stamp = await self._stamp(announced)
            if before is not None and not is_due(before, began, stamp):
                self._refused[announced] = replace(before, look_at=began + CHANGED_S)
                return False
            with self._loading(announced.version):
                adapter = await self._load(announced)
        except REFUSED as error:
            self._refuse(announced, str(error), stamp)
            return False
        self.serving, self.adrift = Served(announced=announced, adapter=adapter), False
        self._refused = {one: why for one, why in self._refused.items() if one in self._candidates()}
        log.info("policy version served", version=announced.version, seconds=round(time.monotonic() - began, 3))
        self._settle()
        self._changed()
        self.swapped.set()
        return True

    @contextmanager
    def _loading(self, version: int) -> Iterator[None]:
        self.loading = version
        self._changed()
        try:
            yield
        finally:
            self.loading = None

    def _refuse(self, announced: Announced, problem: str, stamp: checkpoint.Stamp) -> None:
        log.error(
            "policy version refused, serving on", version=announced.version, serving=self.serving.version, why=problem
        )
        self._refused[announced] = refusal(self._refused.get(announced), problem, stamp, time.monotonic())
        self._refused = {one: why for one, why in self._refused.items() if one in self._announcements.versions}
        self._changed()

    async def _stamp(self, announced: Announced) -> checkpoint.Stamp:
        return await self._checkpoints.stamp(_wanted(announced)) if announced.source == "checkpoint" else ()

    async def _load(self, announced: Announced) -> Adapter | None:
        version, source, location = announced.version, announced.source, announced.location
        log.info("loading policy version", version=version, source=source, location=location)
        if announced.problem:
            raise VersionRefusedError(announced.problem)
        if self.serving.version and (source == "adapter") != (self.serving.adapter is not None):
            raise VersionRefusedError(
                f"version {version} is published as {source}, {self.serving.version} was not: an "
                "adapter belongs to the model that workers boot with; publish one kind only, or start the workers again"
            )
        if source == "adapter":
            return await self._load_adapter(announced)
        await self._load_checkpoint(announced)
        return None

    async def _load_adapter(self, announced: Announced) -> Adapter:
        began = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self._adapters.in_use(announced.location))
            adapter = await self._adapters.load(announced.location, announced.sha256)
            self._using, before = stack.pop_all(), self._using
        before.close()
        self._measures.swap["prepare"].add(time.monotonic() - began)
        return adapter

    async def _load_checkpoint(self, announced: Announced) -> None:
        began = time.monotonic()
        prepared = await self._checkpoints.prepare(_wanted(announced))
        prepared_s = time.monotonic() - began
        paused_s = await self._engine.load_checkpoint(announced.version, prepared.folder, self._swap, prepared.content)
        self._measures.swap["prepare"].add(prepared_s)
        self._measures.swap["pause"].add(paused_s)


def _wanted(announced: Announced) -> Wanted:
    return Wanted(
        version=announced.version,
        location=announced.location,
        sha256=announced.sha256,
        transport=announced.transport,
        base=announced.base,
    )
