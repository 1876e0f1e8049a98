"""The files of a version that came in a round, and thereby without any: without them an engine cannot go back to it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import structlog

from ..checkpoints.supply import CheckpointSupply, Wanted
from ..engine import Engine
from ..errors import (
    CacheUnwritableError,
    CheckpointRefusedError,
    EngineDiedError,
    NotInStoreError,
    VersionRefusedError,
)
from ..redis_io.connections import cancelled
from ..weights.checkpoint import Stamp

FIRST_TRY_S, LONGEST_TRY_S = 1.0, 30.0
"""Seconds between two tries."""
GONE_AFTER_S = 60.0
"""What a store that answers has lacked for so long is gone: a shared file system shows late what was written."""

log = structlog.get_logger()


class WayBack:
    """Fetches the files from the weight store, where each such version is too, until they are here.

    Its task ends once they are, once they are gone for good, or once another version is served. It alone changes what
    is known of them, but for `begin`.
    """

    def __init__(self, *, engine: Engine, checkpoints: CheckpointSupply) -> None:
        self._engine = engine
        self._checkpoints = checkpoints
        self._version: int | None = None
        """The version that has no files here."""
        self._why = ""
        self._gone = False
        self._tried = asyncio.Event()
        """Set between two tries."""
        self._trying: asyncio.Task[None] | None = None

    @property
    def missing(self) -> int | None:
        """The version that is served and has no files here; None if it has some."""
        return self._version if self._version == self._engine.policy_version else None

    def stamp(self) -> Stamp:
        """Changes when a swap that was refused for want of them is worth another try."""
        return () if self.missing is None else (("way back", self.missing, int(self._gone)),)

    async def begin(self, wanted: Wanted) -> None:
        """The engine serves this version, and has received it in a round."""
        await self.aclose()
        self._version, self._why, self._gone = wanted.version, "", False
        self._tried.clear()
        self._trying = asyncio.create_task(self._try(wanted))

    async def check(self) -> None:
        """Before any other version is loaded. Waits for the end of the try that is under way.

        Raises `VersionRefusedError` while the files are not here, unless they are gone for good: then the engine has
        nothing to go back to, and ends where the other version fails.
        """
        if self.missing is None:
            return
        await self._tried.wait()
        if self.missing is not None and not self._gone:
            raise VersionRefusedError(f"no files are here yet of version {self._version}, to go back to: {self._why}")

    async def aclose(self) -> None:
        """Fetch nothing more."""
        if self._trying is not None:
            self._trying.cancel()
            with suppress(asyncio.CancelledError, EngineDiedError):  # a dead engine ends the worker by itself
                await self._trying

    async def _try(self, wanted: Wanted) -> None:
        pause_s, lacked_since = FIRST_TRY_S, None
        while self.missing == wanted.version and not cancelled():
            self._tried.clear()
            try:
                await self._fetch(wanted)
                return
            except (VersionRefusedError, CheckpointRefusedError, CacheUnwritableError) as error:
                log.warning("no files of what is served, so no round is joined", version=wanted.version, why=str(error))
                self._why = str(error)
                lacked_since = (lacked_since or time.monotonic()) if isinstance(error, NotInStoreError) else None
            finally:
                self._tried.set()
            if lacked_since is not None and time.monotonic() >= lacked_since + GONE_AFTER_S:
                await self._give_up(wanted)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_TRY_S)

    async def _fetch(self, wanted: Wanted) -> None:
        found = await self._checkpoints.prepare(wanted)
        if self._engine.policy_version != wanted.version:
            return
        await self._engine.located(wanted.version, found.folder, found.content)
        await self._checkpoints.serving(found)
        self._version = None

    async def _give_up(self, wanted: Wanted) -> None:
        log.error("the files of what is served are gone, nothing can be gone back to", version=wanted.version)
        await self._engine.lost(wanted.version)
        self._gone = True
