"""New weights for a running vLLM engine: all of them are in place, or all the old ones; it goes on in either case.

Imports no vLLM: works on an `AsyncLLM` through calls that end when the engine does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog

from worker import checkpoint
from worker.engine import SwapMode
from worker.errors import EngineDiedError, SwapFailedError
from worker.vllm_adapters import LoadedAdapters
from worker.vllm_versions import Swap, Versions

T = TypeVar("T")

MAX_RELOADS = 4
"""Of the old weights, after a failed load of new ones."""

log = structlog.get_logger()


class Ask(Protocol):
    """Awaits a call to vLLM. Raises `EngineDiedError` after the engine's timeout or its death."""

    async def __call__(self, call: Coroutine[Any, Any, T], /) -> T: ...  # noqa: D102 - said by the class


class Swapper:
    """One swap at a time; every checkpoint is compared with what the worker `booted` with."""

    def __init__(
        self,
        llm: Any,
        ask: Ask,
        died: Callable[[str], EngineDiedError],
        booted: Path,
        adapters: LoadedAdapters,
        versions: Versions,
    ) -> None:
        self._llm = llm
        self._ask = ask
        self._died = died
        self._booted = booted
        self._serving = booted
        self._adapters = adapters
        self._versions = versions
        self._one_at_a_time = asyncio.Lock()

    async def label(self, version: int) -> None:
        """Make vLLM report `version` with the tokens that it samples from now on, if it can (0.32 and later)."""
        if hasattr(self._llm, "update_weight_version"):
            await self._ask(self._llm.update_weight_version(str(version)))

    async def swap(self, version: int, folder: Path, mode: SwapMode) -> None:
        """Raises `CheckpointRefusedError` before anything is touched, `SwapFailedError`, `EngineDiedError`."""
        async with self._one_at_a_time:
            checked = await asyncio.to_thread(_checked, folder, self._booted)
            async with self._adapters.changing:
                started = time.monotonic()
                try:
                    await self._replace(version, folder, mode, checked)
                finally:
                    await self._resume(started)
            log.info("policy version swapped", version=version, mode=mode, swap_s=round(time.monotonic() - started, 4))

    async def _replace(self, version: int, folder: Path, mode: SwapMode, checked: checkpoint.Stamp) -> None:
        listed = await self._listed_adapters()
        try:
            await self._pause(mode)
            await self._load(version, folder, listed)
            if await self._ask(asyncio.to_thread(checkpoint.stamp, folder)) != checked:
                # vLLM loads what is left of a checkpoint without a word.
                raise RuntimeError("its files changed while they were loaded")
        except EngineDiedError:
            raise
        except Exception as error:
            # A failed utility call is a bare Exception in every vLLM.
            await self._go_back(listed, error)
            raise SwapFailedError(folder, version, self._versions.now, str(error)) from error
        self._serving = folder
        self._versions.now = version

    async def _pause(self, mode: SwapMode) -> None:
        """The KV cache goes with it: what is kept is computed again from its tokens."""
        self._versions.aborting = mode == "abort"
        pausing = self._llm.pause_generation(mode=mode, clear_cache=True)
        try:
            await (self._drain(pausing) if mode == "wait" else self._ask(pausing))
        finally:
            self._versions.aborts += self._versions.aborting
            self._versions.aborting = False

    async def _drain(self, pausing: Coroutine[Any, Any, None]) -> None:
        """Completions end when they end; until then the engine must step, and no longer stepping is its death."""
        draining = asyncio.create_task(pausing)
        try:
            while not draining.done():
                await self._ask(self._llm.is_sleeping())
                await asyncio.wait([draining], timeout=0.2)
        finally:
            draining.cancel()
        await draining

    async def _load(self, version: int, folder: Path, listed: frozenset[int]) -> None:
        await self._ask(self._llm.collective_rpc("rollstream_reload", args=(str(folder),)))
        await self.label(version)
        # The pause has emptied it; but its keys do not know the weights, so nothing else may have filled it.
        if not await self._ask(self._llm.reset_prefix_cache(reset_running_requests=True)):
            raise RuntimeError("vLLM did not drop its prefix cache")
        for request_id in await self._adapters.restore(listed):
            await self._ask(self._llm.abort(request_id))

    async def _go_back(self, listed: frozenset[int], cause: Exception) -> None:
        """Two good loads in a row: layers that a failed load left half done swallow part of the next one."""
        log.error("new weights failed, loading the old ones", cause=str(cause))
        good = 0
        for _ in range(MAX_RELOADS):
            try:
                await self._load(self._versions.now, self._serving, listed)
            except EngineDiedError:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("old weights not loaded", error=str(error))
                good = 0
                continue
            good += 1
            if good == 2:
                return
        raise self._died(f"neither new weights nor those of version {self._versions.now} could be loaded: {cause}")

    async def _resume(self, started: float) -> None:
        await self._ask(self._llm.resume_generation())
        self._versions.swaps.append(Swap(started, time.monotonic(), self._versions.now))

    async def _listed_adapters(self) -> frozenset[int]:
        return frozenset(await self._ask(self._llm.list_loras())) if self._adapters.any else frozenset()


def _checked(folder: Path, booted: Path) -> checkpoint.Stamp:
    stamp = checkpoint.stamp(folder)
    checkpoint.check(folder, booted)
    return stamp
