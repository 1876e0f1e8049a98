"""Has the next checkpoint read into memory and mapped by vLLM's processes, while these go on generating.

Imports no vLLM: it calls an `AsyncLLM` through `Calls`, which end when the engine does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

from ....errors import NotStagedError
from ....weights.checkpoint_content import Content
from ..calls import Calls
from . import memory
from .shared_weights import SharedWeights, shared

T = TypeVar("T")
_SOON_S, _PERIOD_S = 0.02, 0.4
"""How long to wait before asking again, doubled each time up to the second: each question holds up a step."""

log = structlog.get_logger()


class Staging:
    """The one checkpoint that is staged, or being staged, for one engine.

    `stage` begins another, and a swap (`around`) ends what is not its own at once and all of it when it is over. Only
    they change the fields, and only while they hold `_changing`: during a swap vLLM's processes read the memory.
    """

    def __init__(self, *, llm: Any, calls: Calls, limit_s: float) -> None:
        self._llm = llm
        self._calls = calls
        self._limit_s = limit_s
        self._weights: SharedWeights | None = None
        self._ready = False
        self._changing = asyncio.Lock()

    def has(self, folder: Path, content: Content) -> bool:
        """Whether vLLM's processes can load just this content from memory."""
        return self._ready and self._weights is not None and self._weights.holds(folder, content)

    async def stage(self, folder: Path, content: Content) -> None:
        """Stage these files, of which the caller knows that they fit. Forgets what was staged before.

        Raises `CheckpointRefusedError` for files that changed, `NotStagedError`, `EngineDiedError`.
        """
        began = time.monotonic()
        async with self._changing:
            if self.has(folder, content):
                return
            await self._clear()
            weights = self._weights = shared(folder, content)
            weights.hold()
        try:
            await self._within(folder, weights.read())
            await self._within(folder, self._map(folder, weights))
        except BaseException:
            if self._weights is weights:
                async with self._changing:
                    await self._clear_only(weights)
            raise
        took = round(time.monotonic() - began, 3)
        log.info("checkpoint staged", checkpoint=folder.name, bytes=weights.layout.nbytes, staged_s=took)

    @asynccontextmanager
    async def around(self, folder: Path, content: Content) -> AsyncIterator[None]:
        """A swap to these files: nothing else is staged while it runs, and nothing at all after it."""
        async with self._changing:
            if not self.has(folder, content):
                await self._clear()
            try:
                yield
            finally:
                await self._clear()

    def end(self) -> None:
        """Free the memory; the engine has ended."""
        weights, self._weights, self._ready = self._weights, None, False
        if weights is not None:
            weights.drop()
        memory.free_kept()

    async def _clear(self) -> None:
        weights, self._weights, self._ready = self._weights, None, False
        if weights is None:
            return
        kept: list[bool] = []
        try:
            if self._calls.death is None:
                kept = await self._calls.utility(self._llm.collective_rpc("rollstream_unstage"))
        finally:
            weights.drop(keep=any(kept))

    async def _clear_only(self, weights: SharedWeights) -> None:
        if self._weights is weights:
            await self._clear()

    async def _map(self, folder: Path, weights: SharedWeights) -> None:
        """Begin it in each of vLLM's processes, and ask until it is done: a long call would hold up its steps."""
        async with self._changing:
            if self._weights is weights:
                layout = weights.layout
                tensors = [(one.name, one.dtype, one.shape, one.offset) for one in layout.tensors]
                arguments = weights.memory.path, weights.memory.number, layout.regions, tensors
                await self._calls.utility(self._llm.collective_rpc("rollstream_stage", args=arguments))
        wait_s = _SOON_S
        while self._weights is weights:
            found = await self._calls.utility(self._llm.collective_rpc("rollstream_staged"))
            if problem := next(filter(None, found), None):
                raise NotStagedError(folder, problem)
            if None not in found:
                self._ready = self._weights is weights
                break
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _PERIOD_S)
        if self._weights is not weights:
            raise NotStagedError(folder, "another checkpoint is wanted")

    async def _within(self, folder: Path, waiting: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self._limit_s):
                return await waiting
        except TimeoutError:
            raise NotStagedError(folder, f"not done within {self._limit_s:g} s") from None
