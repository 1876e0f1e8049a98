"""Serve the newest active version, and prepare the next. What cannot be verified is refused by name, the old one serves
on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import takewhile

import structlog
from redis.exceptions import RedisError

from ..errors import SettingsError
from ..redis_io.connections import cancelled, retrying
from ..weights.checkpoint import Stamp
from . import decisions
from .announced import Announced
from .announcements import Announcements
from .loader import VersionLoader
from .patience import Patience
from .retries import CHANGED_S, REFUSED, Refusal, is_due, refusal
from .served import Ready, Served

PERIOD_S = 0.1

log = structlog.get_logger()


class VersionFollower:
    """Follows the versions and their activations. `serving` changes between two jobs; what runs is the engine's affair.

    Two tasks of the worker change it. A look, one at a time, reads the streams and decides whether what is served
    stands among the active versions (`adrift`). The work, one version at a time, prepares versions, serves them, and
    sets the refusals. Others only read, but for `swapped`, which is cleared by the task that waits for it.
    """

    def __init__(self, *, announcements: Announcements, loader: VersionLoader, changed: Callable[[], None]) -> None:
        """`changed`: called when a worker's report, or whether it takes jobs, may be another than before."""
        self._announcements = announcements
        self._loader = loader
        self._changed = changed
        self._refused: dict[Announced, Refusal] = {}
        self._bringing: Announced | None = None
        """What is being prepared."""
        self._patience = Patience()
        self._work_due = asyncio.Event()
        self._waited = False
        self.serving = Served()
        self.loading: int | None = None
        """The version that is read or loaded now."""
        self.adrift = False
        """Whether the served version is no active one: at boot, or after the streams were replaced. Then no job is
        admitted."""
        self.swapped = asyncio.Event()
        """Set whenever a new version is served; the waiting role clears it."""

    def __repr__(self) -> str:
        refused = sorted(one.version for one in self._refused)
        seen = f"version={self.serving.version} newest={self.newest} adrift={self.adrift} refused={refused}"
        return f"<VersionFollower {seen}>"

    @property
    def newest(self) -> int:
        """The newest active version, whether it can be served or not."""
        return self._announcements.newest

    @property
    def announced(self) -> int:
        """The newest announced version, active or not."""
        return max(self._announcements.announced, self.newest)

    @property
    def prepared(self) -> int:
        """The newest version that is served or could be at once."""
        return self.serving.version if self._loader.ahead is None else self._loader.ahead.announced.version

    @property
    def error(self) -> str:
        """Why the newest active version was refused; empty if it is served, or still loads."""
        return next((self._refused[one].why for one in self._announcements.active[:1] if one in self._refused), "")

    @property
    def problem(self) -> str:
        """For people: why no version can be seen, else the same, else why the newest that is not active was refused."""
        told = self._announcements.problem or self.error
        ahead = next((one for one in self.pending[:1] if one in self._refused), None)
        if told or ahead is None:
            return told
        return f"version {ahead.version}, not active yet: {self._refused[ahead].why}"

    @property
    def pending(self) -> list[Announced]:
        """Versions that may be activated later, the newest first."""
        found = self._announcements
        return decisions.to_prepare(found.versions, found.active, self.serving.announced)

    @property
    def waits(self) -> bool:
        """Whether no job is taken now: from an activation until its version is served or refused, and while adrift."""
        awaited = (one for one in self._candidates()[:1] if not one.is_at_once)
        return self.adrift or any(one not in self._refused for one in awaited)

    def has_prepared(self, announced: Announced) -> bool:
        """Whether it could be served at once."""
        return self._loader.ahead is not None and self._loader.ahead.announced == announced

    async def begin(self) -> None:
        """Serve the newest complete active version before any job is admitted; if none is complete, stay adrift.

        Raises `EngineDiedError`, and `SettingsError` if waiting cannot help.
        """
        try:
            await retrying("read the versions", self._announcements.read)
        except RedisError as error:
            raise SettingsError(f"the policy versions cannot be read: {error}") from None
        self.adrift = bool(self._announcements.active)
        await self._serve_first()
        if self.adrift:
            log.warning("nothing announced can be served, no job is taken until then", newest=self.newest)
        self._tell()

    async def _serve_first(self) -> None:
        """Return once a version is served, or all are refused; look meanwhile."""
        work = asyncio.create_task(self._serve_newest())
        try:
            while not work.done():
                await asyncio.wait([work], timeout=PERIOD_S)
                await self.look()
                if self._is_overtaken():
                    work.cancel()
                    await asyncio.wait([work])
                    work = asyncio.create_task(self._serve_newest())
            await work
        finally:
            work.cancel()

    async def run(self) -> None:
        """Look until cancelled, even while a version loads or Redis is away. Raises `EngineDiedError`."""
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(self._work())
            while not cancelled():
                with suppress(TimeoutError):
                    async with asyncio.timeout(PERIOD_S):
                        await self._work_due.wait()
                await self.look()
                if work.done() and self._due():
                    work = tasks.create_task(self._work())
                elif self._is_overtaken():
                    work.cancel()
                self._work_due.clear()
            work.cancel()  # otherwise the group would wait for it

    async def look(self) -> None:
        """See all announcements made before this call."""
        if await self._announcements.look():
            self._settle()
            if self._due():
                self._work_due.set()
            await self._loader.renew(self.serving)

    def _settle(self) -> None:
        active, served = self._announcements.active, self.serving.announced
        adrift = self.adrift
        if adrift and any(one.is_like(served) for one in active):
            log.info("jobs are taken again, the served version is in the versions stream", serving=served.version)
            self.adrift = False
        elif not adrift and decisions.started_again(active, served):
            log.warning(
                "the versions stream started again, no job is taken until one of its versions is served",
                serving=served.version,
                newest=self.newest,
            )
            self.adrift = True
        self._loader.keep([*self._candidates(), *self.pending])
        if adrift != self.adrift or self._waited != self.waits:
            self._tell()

    def _tell(self) -> None:
        self._waited = self.waits
        self._changed()

    def _candidates(self) -> list[Announced]:
        return decisions.to_serve(self._announcements.active, self.serving.announced, adrift=self.adrift)

    def _ahead(self) -> list[Announced]:
        """What to prepare before its activation, the best first, up to what is prepared already."""
        return list(takewhile(lambda one: not self.has_prepared(one), self.pending))

    def _due(self) -> bool:
        now = time.monotonic()
        return any(is_due(self._refused.get(one), now) for one in (*self._candidates(), *self._ahead()))

    def _is_overtaken(self) -> bool:
        """Whether to give up what is being prepared for a version to serve: at once if nobody has activated it, else
        when the other has waited long enough.
        """
        candidates, bringing = self._candidates(), self._bringing
        fresh = next((one for one in candidates if one not in self._refused), None)
        is_waiting = bringing is not None and fresh not in (None, bringing)
        return self._patience.ends(time.monotonic(), is_waiting=is_waiting) or (
            is_waiting and bringing not in candidates
        )

    async def _work(self) -> None:
        await self._serve_newest()
        versions = self._announcements.versions
        for one in self._ahead():
            if cancelled() or self._announcements.versions is not versions or await self._prepare_ahead(one):
                return

    async def _serve_newest(self) -> None:
        active = self._announcements.active
        for one in self._candidates():
            # New announcements come first.
            if cancelled() or self._announcements.active is not active or await self._try(one):
                return

    async def _prepare_ahead(self, announced: Announced) -> bool:
        """Try to prepare a version that is not active. Returns whether it is prepared now."""
        ready = await self._ready(announced)
        if ready is None:
            return False
        self._loader.hold(ready)
        log.info("policy version prepared", version=announced.version, seconds=round(ready.seconds, 3))
        self._tell()
        return True

    async def _try(self, announced: Announced) -> bool:
        """Try to serve a version. Returns whether it is served now."""
        began = time.monotonic()
        ready = self._loader.ahead if self.has_prepared(announced) else await self._ready(announced)
        if ready is None:
            return False
        try:
            with self._loading(announced.version):
                serving = await self._loader.serve(ready, self.serving)
        except REFUSED as error:
            self._loader.forget()
            self._refuse(announced, str(error), ready.stamp)
            return False
        self.serving, self.adrift = serving, False
        self._patience.restore()
        still = *self._candidates(), *self.pending
        self._refused = {one: why for one, why in self._refused.items() if one in still}
        log.info("policy version served", version=announced.version, seconds=round(time.monotonic() - began, 3))
        self._settle()
        self._tell()
        self.swapped.set()
        return True

    async def _ready(self, announced: Announced) -> Ready | None:
        """Prepare a version; None if it is refused, or too early to try again."""
        began, before = time.monotonic(), self._refused.get(announced)
        stamp: Stamp = ()
        if not is_due(before, began):
            return None
        try:
            stamp = await self._loader.stamp(announced)
            if before is not None and not is_due(before, began, stamp):
                self._refused[announced] = replace(before, look_at=began + CHANGED_S)
                return None
            self._bringing = announced
            with self._loading(announced.version):
                return await self._prepare(announced, stamp)
        except REFUSED as error:
            self._refuse(announced, str(error), stamp)
            return None
        finally:
            self._bringing = None

    async def _prepare(self, announced: Announced, stamp: Stamp) -> Ready:
        version, source, location = announced.version, announced.source, announced.location
        event = "preparing policy version" if announced in self.pending else "loading policy version"
        log.info(event, version=version, source=source, location=location)
        # A worker that takes no jobs gains nothing from a second copy in memory.
        return await self._loader.prepare(announced, self.serving, stamp, staged=not self.adrift)

    @contextmanager
    def _loading(self, version: int) -> Iterator[None]:
        self.loading = version
        self._tell()
        try:
            yield
        finally:
            self.loading = None

    def _refuse(self, announced: Announced, problem: str, stamp: Stamp) -> None:
        log.error(
            "policy version refused, serving on", version=announced.version, serving=self.serving.version, why=problem
        )
        self._refused[announced] = refusal(self._refused.get(announced), problem, stamp, time.monotonic())
        known = *self._announcements.versions, *self._announcements.active
        self._refused = {one: why for one, why in self._refused.items() if one in known}
        self._tell()
