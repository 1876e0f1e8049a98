"""A store of files, in a folder or at a URL: blocking calls run in threads, each with a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from .errors import StoreProblem, WeightStoreError, store_error
from .store import Stored, check_item

CHUNK_BYTES = 32 * 2**20
_CALL_S = 60.0
_SLOWEST_BYTES_PER_S = 2**20
_AT_ONCE = 16
"""How many small questions are asked at once."""

T = TypeVar("T")


class Files(Protocol):
    """Blocking calls on the files of a store; names are checked before. They raise whatever the file system raises."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file so that no reader sees a part of it, if the file system can do that."""

    def read(self, name: str, most: int) -> bytes:
        """The whole file, or one byte more than `most` of a longer one. Raises `FileNotFoundError`."""

    def size(self, name: str) -> int:
        """Its bytes. Raises `FileNotFoundError`."""

    def remove(self, name: str) -> None:
        """Raises `FileNotFoundError`."""

    def all(self) -> list[Stored]:
        """All chunks and manifests."""


class FileStore:
    """A `WeightStore` of files."""

    def __init__(self, *, where: str, files: Files) -> None:
        self._where = where
        self._files = files
        self._threads = ThreadPoolExecutor(_AT_ONCE, "weight-store")
        """Its own: a file system that hangs keeps threads, and others of the process must not wait for them."""

    @property
    def where(self) -> str:
        """See `WeightStore`."""
        return self._where

    async def chunk_bytes(self) -> int:
        """See `WeightStore`."""
        return CHUNK_BYTES

    async def put(self, name: str, data: bytes) -> None:
        """See `WeightStore`."""
        await self._run(f"write {check_item(name)}", len(data), lambda: self._files.write(name, data))

    async def get(self, name: str, most: int) -> bytes:
        """See `WeightStore`."""
        what = f"read {check_item(name)}"
        size = await self._run(what, 0, lambda: self._files.size(name))
        if size > most:
            raise self._too_long(what, f"{size} bytes", most)
        data = await self._run(what, size, lambda: self._files.read(name, most))
        if len(data) > most:  # it has grown since, or its size says nothing of what it gives
            raise self._too_long(what, "more bytes than its size says", most)
        return data

    async def sizes(self, names: Collection[str]) -> dict[str, int]:
        """See `WeightStore`."""
        turn = asyncio.Semaphore(_AT_ONCE)

        async def size(name: str) -> int | None:
            async with turn:
                return await self._unless_gone(f"look for {check_item(name)}", lambda: self._files.size(name))

        found = await asyncio.gather(*map(size, names))
        return {name: size for name, size in zip(names, found, strict=True) if size is not None}

    async def items(self) -> list[Stored]:
        """See `WeightStore`."""
        return await self._run("list", 0, self._files.all)

    async def delete(self, names: Iterable[str]) -> None:
        """See `WeightStore`."""
        for name in map(check_item, names):
            await self._unless_gone(f"remove {name}", partial(self._files.remove, name))

    async def renew(self, names: Iterable[str]) -> None:
        """Files do not expire."""

    async def room(self) -> int | None:
        """See `WeightStore`."""
        return None

    def _too_long(self, what: str, found: str, most: int) -> WeightStoreError:
        return WeightStoreError(what, self._where, f"{found}, at most {most} were announced", StoreProblem.BROKEN)

    async def _unless_gone(self, what: str, call: Callable[[], T]) -> T | None:
        try:
            return await self._run(what, 0, call)
        except WeightStoreError as error:
            if error.reason is StoreProblem.MISSING:
                return None
            raise

    async def _run(self, what: str, num_bytes: int, call: Callable[[], T]) -> T:
        """The thread of a call that takes too long is left to end by itself."""
        try:
            async with asyncio.timeout(_CALL_S + num_bytes / _SLOWEST_BYTES_PER_S):
                return await asyncio.wrap_future(self._threads.submit(call))
        except Exception as error:  # noqa: BLE001 - libraries for object stores raise any class
            raise store_error(what, self._where, error) from None
