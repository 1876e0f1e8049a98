"""The files of a published checkpoint, in a folder that holds exactly what was announced."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rollstream.schemas import NameRefusedError
from rollstream.schemas.keys import check_name
from rollstream.schemas.wire.policies import Transport

from ..errors import CheckpointRefusedError, VersionRefusedError
from ..weights import checkpoint
from ..weights.checkpoint_folder import content_bytes, reading
from .store_versions import StoreVersions
from .weights_cache import Kept, WeightsCache

_END_S = 10.0
"""How long the end of a worker waits for a thread that reads a shared folder, which may hang."""
_THREADS = 8
"""One prepares and one removes; the others are for those that hang."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an announcement says of a checkpoint, or of an adapter in the weight store."""

    version: int
    location: str
    sha256: str
    transport: Transport = "folder"
    base: int | None = None
    is_adapter: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A checkpoint that was found and verified."""

    folder: Path
    content: checkpoint.Content


class CheckpointSupply:
    """Finds checkpoints below `--checkpoint-dir` and in the weight store (`--weights`).

    With a cache the former are copied there while they are read; the latter always go there.

    It has threads of its own: one that reads a shared folder that hangs is told to give up, and does so when it wakes.
    """

    def __init__(
        self,
        *,
        folder: Path | None,
        cache: WeightsCache | None = None,
        store: StoreVersions | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """`store` puts what it brings into `cache`; it may take `timeout_s` seconds for a version."""
        self._folder = folder
        self._cache = cache
        self._store = store
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_THREADS, "checkpoints")
        self._running: set[Future[Any]] = set()

    def open(self) -> None:
        """Make the cache's folder. Raises `SettingsError`."""
        if self._cache is not None:
            self._cache.open()

    async def close(self) -> None:
        """Wait for what is being written, which ends soon, and remove the cache's folder."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if running := [asyncio.wrap_future(one) for one in list(self._running)]:
            await asyncio.wait(running, timeout=_END_S)
        if self._cache is not None:
            await asyncio.to_thread(self._cache.close)

    async def stamp(self, wanted: Wanted) -> checkpoint.Stamp:
        """A value that changes when the files of a refused version do, and it is worth another try. Never raises."""
        with suppress(VersionRefusedError):  # preparing it raises the same error
            if wanted.transport == "store":
                return await self._in_store().stamp(wanted.location)
            return await asyncio.to_thread(checkpoint.stamp, self._place(wanted.location))
        return ()

    async def prepare(self, wanted: Wanted) -> Prepared:
        """Bring the files and verify that they are what was announced; generation goes on meanwhile.

        Raises `VersionRefusedError`, `CheckpointRefusedError`.
        """
        if wanted.transport == "store":
            return await self._fetch(wanted)
        if wanted.transport != "folder":
            raise VersionRefusedError(f"version {wanted.version} comes by {wanted.transport}, not by files")
        folder = self._place(wanted.location)
        if self._cache is None:
            return await self._in_thread(_read, folder, wanted)
        return await self._in_thread(_copy, folder, wanted, self._cache)

    async def serving(self, prepared: Prepared) -> None:
        """The engine serves this checkpoint now; what was kept for others may go. Never raises."""
        if self._cache is not None:
            goes = self._cache.served(prepared.folder)
            self._submit(self._cache.remove, goes)  # not waited for: gigabytes take a while

    async def _in_thread(self, call: Callable[..., Prepared], *args: Any) -> Prepared:
        """`call(*args, given_up)` in a thread, which is told to give up if this is cancelled."""
        given_up = threading.Event()
        try:
            return await asyncio.wrap_future(self._submit(call, *args, given_up))
        finally:
            given_up.set()

    def _submit(self, call: Callable[..., T], *args: Any) -> Future[T]:
        running = self._threads.submit(call, *args)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return running

    async def _fetch(self, wanted: Wanted) -> Prepared:
        fetch = partial(_fetch, self._in_store(), wanted, asyncio.get_running_loop())
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._in_thread(fetch)
        except TimeoutError:
            problem = f"not fetched within {self._timeout_s:g} s (--load-timeout-s)"
            raise VersionRefusedError(f"weights {wanted.location}: {problem}") from None

    def _in_store(self) -> StoreVersions:
        if self._store is None:
            raise VersionRefusedError(
                "a version was published through the weight store, but this worker was started without --weights"
            )
        return self._store

    def _place(self, location: str) -> Path:
        if self._folder is None:
            raise VersionRefusedError(
                "a checkpoint was published, but this worker was started without --checkpoint-dir"
            )
        try:
            return self._folder / check_name("checkpoint", location)
        except NameRefusedError as error:
            raise VersionRefusedError(str(error)) from None


def _read(folder: Path, wanted: Wanted, given_up: threading.Event) -> Prepared:
    _check_is_there(folder)
    content = checkpoint.read_content(folder, given_up)
    if content.sha256 != wanted.sha256 or not checkpoint.unchanged(folder, content):
        raise _altered(wanted)
    return Prepared(folder=folder, content=_finite(folder, content))


def _copy(folder: Path, wanted: Wanted, cache: WeightsCache, given_up: threading.Event) -> Prepared:
    if (kept := cache.find(wanted.sha256)) is not None:
        return Prepared(folder=kept.folder, content=kept.content)
    _check_is_there(folder)
    with reading(folder):
        nbytes = content_bytes(folder)
    checkpoint.read_layout(folder, confined=True)  # what would be left out of the copy might be weights
    with cache.writing(wanted.location, nbytes) as target:
        content = checkpoint.copy_content(folder, target, given_up)
        if content.sha256 != wanted.sha256:
            raise _altered(wanted)
        cache.keep(Kept(sha256=wanted.sha256, folder=target, content=_finite(folder, content)))
    return Prepared(folder=target, content=content)


def _check_is_there(folder: Path) -> None:
    """Raises `CheckpointRefusedError` if there is no such folder: only its name was published, not where it lies."""
    try:
        folder.stat()
    except FileNotFoundError:
        problem = (
            "no folder of that name directly below this worker's --checkpoint-dir: save it there, or give the worker "
            "the folder below which the trainer saves"
        )
        raise CheckpointRefusedError(folder, "folder", problem) from None
    except OSError:
        pass  # reading it says why


def _fetch(
    store: StoreVersions, wanted: Wanted, loop: asyncio.AbstractEventLoop, given_up: threading.Event
) -> Prepared:
    kept = store.prepare(wanted.location, wanted.sha256, loop, given_up, is_adapter=wanted.is_adapter)
    return Prepared(folder=kept.folder, content=kept.content)


def _finite(folder: Path, content: checkpoint.Content) -> checkpoint.Content:
    if content.spoilt:
        raise CheckpointRefusedError(folder, *content.spoilt)
    return content


def _altered(wanted: Wanted) -> VersionRefusedError:
    problem = "its files are not those that were published: half-written, or changed since"
    return VersionRefusedError(f"checkpoint {wanted.location}: {problem}")
