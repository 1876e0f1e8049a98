"""Whatever is sampled with an adapter has its files on disk and its weights in the engine until it ends."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from schemas import ErrorCode
from worker.adapter_store import AdapterStore
from worker.adapters import CONFIG_FILE, WEIGHTS_FILE, AdapterDirectory
from worker.engine import Adapter, Engine
from worker.errors import DataError

_PIECE = 2**20


class AdapterSupply:
    """Adapters of the local folder first, then those that come through Redis; each is checked against the model."""

    def __init__(self, engine: Engine, directory: AdapterDirectory, store: AdapterStore | None) -> None:
        self._engine = engine
        self._directory = directory
        self._store = store
        self._fetched: dict[str, Adapter] = {}

    @contextmanager
    def in_use(self, name: str | None) -> Iterator[None]:
        """What `load` gives for this name stays for as long; enter it before."""
        if name is None or self._store is None:
            yield
            return
        with self._store.in_use(name):
            yield

    async def load(self, name: str, sha256: str | None = None) -> Adapter:
        """The adapter `name@version`, ready for requests; `sha256`: what its content must be.

        Raises `DataError`: `unknown_adapter` where nobody published it, `adapter_refused` for what cannot be used.
        """
        adapter = await self._find(name)
        if sha256 is not None and await asyncio.to_thread(_digest, name, adapter.path) != sha256:
            _refuse(name, "its content is not that which the policy version was announced with")
        await self._engine.load_adapter(adapter)
        return adapter

    async def renew(self, name: str) -> None:
        """Keep it in Redis, for workers that come later."""
        if self._store is not None:
            await self._store.renew(name)

    async def close(self) -> None:
        """Give up what is being fetched."""
        if self._store is not None:
            await self._store.close()

    async def _find(self, name: str) -> Adapter:
        try:
            return self._directory.find(name)
        except DataError as error:
            if error.code is not ErrorCode.UNKNOWN_ADAPTER or self._store is None:
                raise
        folder = await self._store.fetch(name)
        await self._unload_evicted(self._store)
        if folder is None:
            problem = f"adapter {name!r}: nobody published it, or it expired; publish it first"
            raise DataError(ErrorCode.UNKNOWN_ADAPTER, "adapter", problem)
        known = self._fetched.get(name)
        if known is None or known.path != folder:
            known = self._fetched[name] = self._directory.admit(name, folder)
        return known

    async def _unload_evicted(self, store: AdapterStore) -> None:
        gone = [adapter for name, adapter in self._fetched.items() if store.folder(name) != adapter.path]
        for adapter in gone:
            del self._fetched[adapter.name]
        for adapter in gone:
            await self._engine.unload_adapter(adapter)


def _digest(name: str, folder: Path) -> str:
    """As in the manifest of one that travels: over config, then weights. Blocks."""
    digest = hashlib.sha256()
    try:
        for file_name in (CONFIG_FILE, WEIGHTS_FILE):
            with (folder / file_name).open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
    except OSError as error:
        _refuse(name, f"its files cannot be read ({type(error).__name__})")
    return digest.hexdigest()


def _refuse(name: str, problem: str) -> NoReturn:
    raise DataError(ErrorCode.ADAPTER_REFUSED, "adapter", f"adapter {name!r}: {problem}")
