"""Write a version to the store: its chunks, then its manifest. Repeating it writes only what is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from rollstream.schemas.weights.compression import Compression
from rollstream.schemas.wire.weights import Chunk
from rollstream.transport.weights import StoreProblem, WeightStore, WeightStoreError

from .encoding import stored_chunk

_AT_ONCE = 4
"""Chunks that are written at once; each is in memory until it is."""


async def upload_chunks(
    store: WeightStore, chunks: Iterator[bytes], compression: Compression, advanced: Callable[[int], None]
) -> tuple[list[Chunk], int]:
    """Write the chunks that are not there. Returns all, in order, and how many bytes were written.

    `chunks` runs in threads. Raises `WeightStoreError` at the first that fails; where the store is full, what was
    written before is removed, since it would fill the store for a version that nobody has.
    """
    sent = _Sent(store=store, compression=compression, advanced=advanced)
    try:
        while (plain := await asyncio.to_thread(next, chunks, None)) is not None:
            await sent.add(plain)
        await sent.all_done()
    except WeightStoreError as error:
        if error.reason is StoreProblem.FULL:
            await sent.take_back()
        raise
    finally:
        sent.give_up()
    return [sent.chunks[number] for number in sorted(sent.chunks)], sent.written


async def missing(store: WeightStore, needed: Mapping[str, int]) -> list[str]:
    """Which items are not there, or have other sizes; `needed`: sizes by name, 0 for one of any size."""
    found = await store.sizes(list(needed))
    return [name for name, size in needed.items() if name not in found or size not in {0, found[name]}]


class _Sent:
    """Writes some chunks at a time. Only one coroutine adds."""

    def __init__(self, *, store: WeightStore, compression: Compression, advanced: Callable[[int], None]) -> None:
        self._store = store
        self._compression = compression
        self._advanced = advanced
        self._running: set[asyncio.Task[None]] = set()
        self._plain = 0
        self._added = 0
        self._new: list[str] = []
        self.chunks: dict[int, Chunk] = {}
        self.written = 0

    async def add(self, plain: bytes) -> None:
        """Begin to write one; wait first while as many as may be are being written."""
        while len(self._running) >= _AT_ONCE:
            await self._some_done(asyncio.FIRST_COMPLETED)
        self._running.add(asyncio.create_task(self._send(self._added, plain)))
        self._added += 1

    async def all_done(self) -> None:
        """Wait for all."""
        if self._running:
            await self._some_done(asyncio.ALL_COMPLETED)

    def give_up(self) -> None:
        """End what is still being written, after an error."""
        for task in self._running:
            task.cancel()

    async def take_back(self) -> None:
        """Remove what was not there before. A store that is away meanwhile keeps it until it expires."""
        self.give_up()
        if self._running:
            await asyncio.wait(self._running)
        with suppress(WeightStoreError):
            await self._store.delete(self._new)

    async def _some_done(self, when: str) -> None:
        done, self._running = await asyncio.wait(self._running, return_when=when)
        for error in [task.exception() for task in done]:  # all are looked at: asyncio logs those that are not
            if error is not None:
                raise error

    async def _send(self, number: int, plain: bytes) -> None:
        chunk, data = await asyncio.to_thread(stored_chunk, plain, self._compression)
        there = await self._store.sizes([chunk.sha256])
        if there.get(chunk.sha256) == len(data):
            await self._store.renew([chunk.sha256])
        else:
            self._new.append(chunk.sha256)
            await self._store.put(chunk.sha256, data)
            self.written += len(data)
        self.chunks[number] = chunk
        self._plain += chunk.plain_bytes
        self._advanced(self._plain)
