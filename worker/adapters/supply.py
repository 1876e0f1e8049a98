"""Provide adapters: while one is in use its files stay on disk and its weights in the engine."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from rollstream.schemas import ErrorCode
from rollstream.schemas.weights.adapter_config import CONFIG_FILE, WEIGHTS_FILE
from rollstream.schemas.weights.regular_files import open_regular

from ..engine import Engine
from ..errors import DataError, adapter_refused
from ..requests import Adapter
from ..single_flight import SingleFlight
from .folder import AdapterFolder
from .store import AGAIN_S, AdapterStore

_PIECE = 2**20


class AdapterSupply:
    """Looks for an adapter in the local folder, then in Redis, and checks each against the model.

    A policy version's may come from the weight store instead.
    """

    def __init__(self, *, engine: Engine, folder: AdapterFolder, store: AdapterStore | None) -> None:
        self._engine = engine
        self._folder = folder
        self._store = store
        self._checks: SingleFlight[Adapter] = SingleFlight()
        """Checks under way: by name for the local folder, by folder for fetched adapters."""
        self._fetched: dict[Path, Adapter] = {}
        self._refused: dict[Path, tuple[str, float]] = {}
        """Fetched adapters that were refused: why, and when to check again (monotonic seconds)."""

    @contextmanager
    def in_use(self, name: str | None) -> Iterator[None]:
        """Enter this before `load`: the adapter that it gives stays until this is left."""
        if name is None or self._store is None:
            yield
            return
        with self._store.in_use(name):
            yield

    async def load(self, name: str, sha256: str | None = None) -> Adapter:
        """The adapter `name@version`, ready for requests; `sha256`: the digest that its content must have.

        Raises `DataError`: `unknown_adapter` if it was not published, `adapter_refused` if it cannot be used; and
        `CacheUnwritableError`.
        """
        adapter = await self._find(name)
        if sha256 is not None and await asyncio.to_thread(_digest, name, adapter.path) != sha256:
            raise adapter_refused(name, "its content is not what the policy version was announced with")
        await self._engine.load_adapter(adapter)
        return adapter

    async def load_stored(self, name: str, sha256: str, bring: Callable[[], Awaitable[Path]]) -> Adapter:
        """An adapter from the weight store, ready for requests; `bring` gives a folder with its files, see `stored`.

        Raises what `bring` raises, and as `load` does.
        """
        if self._store is None:
            problem = "a version was published as an adapter: this worker serves no adapters; start it with --lora"
            raise DataError(ErrorCode.UNKNOWN_ADAPTER, "adapter", problem)
        try:
            folder = await self._store.adopt(name, sha256, bring)
        finally:
            await self._unload_evicted(self._store)
        adapter = await self._admitted(name, folder)
        await self._engine.load_adapter(adapter)
        return adapter

    async def renew(self, name: str) -> None:
        """Renew the adapter in Redis, for workers that need it later."""
        if self._store is not None:
            await self._store.renew(name)

    async def can_keep_more(self) -> bool:
        """Whether the adapter that did not fit would fit now. Evicts unused adapters."""
        if self._store is None:
            return True
        try:
            return await self._store.is_writable()
        finally:
            await self._unload_evicted(self._store)

    async def close(self) -> None:
        """Stop all fetching."""
        await self._checks.close()
        if self._store is not None:
            await self._store.close()

    async def _find(self, name: str) -> Adapter:
        try:
            return await self._checks.result(name, partial(asyncio.to_thread, self._folder.find, name))
        except DataError as error:
            if error.code is not ErrorCode.UNKNOWN_ADAPTER or self._store is None:
                raise
        try:
            folder = await self._store.fetch(name)
        finally:
            await self._unload_evicted(self._store)
        if folder is None:
            problem = f"adapter {name!r}: nobody published it, or it expired; publish it first"
            raise DataError(ErrorCode.UNKNOWN_ADAPTER, "adapter", problem)
        return await self._admitted(name, folder)

    async def _admitted(self, name: str, folder: Path) -> Adapter:
        known = self._fetched.get(folder)
        return known or await self._checks.result(str(folder), partial(self._admit, name, folder))

    async def _admit(self, name: str, folder: Path) -> Adapter:
        """Check a fetched adapter once, since that reads all weights. After a while a refused one is checked again."""
        why, until = self._refused.get(folder, ("", 0.0))
        if time.monotonic() < until:
            raise DataError(ErrorCode.ADAPTER_REFUSED, "adapter", why)
        sha256 = None if self._store is None else self._store.sha256_of(folder)
        try:
            admitted = await asyncio.to_thread(self._folder.admit, name, folder)
            adapter = self._fetched[folder] = replace(admitted, sha256=sha256 or "")
        except DataError as error:
            self._refused[folder] = error.message, time.monotonic() + AGAIN_S
            raise
        return adapter

    async def _unload_evicted(self, store: AdapterStore) -> None:
        self._refused = {folder: why for folder, why in self._refused.items() if store.holds(folder)}
        gone = [adapter for folder, adapter in self._fetched.items() if not store.holds(folder)]
        for adapter in gone:
            await self._engine.unload_adapter(adapter)
            self._fetched.pop(adapter.path, None)


def _digest(name: str, folder: Path) -> str:
    """The digest as in a manifest: of the config and then the weights. Blocks."""
    digest = hashlib.sha256()
    try:
        for file_name in (CONFIG_FILE, WEIGHTS_FILE):
            with open_regular(folder / file_name) as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
    except OSError as error:
        raise adapter_refused(name, f"its files cannot be read ({type(error).__name__})") from error
    return digest.hexdigest()
