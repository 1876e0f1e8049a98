"""Leave no process of vLLM behind, whatever vLLM's own shutdown does. Imports no vLLM."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import Any

IN_ORDER_S = 10.0
"""Seconds for EngineCore and its workers to end by themselves before SIGKILL; an interpreter alone needs 5 s."""
AT_ONCE_S = 0.2
"""The same where nothing is lost by SIGKILL: vLLM's frontend has noticed by then that it is no death to report."""
_FRONTEND_S = 5.0
"""Seconds for vLLM's frontend to end when its EngineCore has."""


class Processes:
    """The processes that were started within `collect`."""

    def __init__(self) -> None:
        self._started: list[BaseProcess] = []

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that `kill` has not ended."""
        return [process.pid for process in self._started if process.pid is not None]

    @property
    def exit_codes(self) -> dict[str, int | None]:
        """By the names of the processes that `kill` has not ended; None for one that runs."""
        return {process.name: process.exitcode for process in self._started}

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Note the processes that the block starts, even if it fails."""
        before = multiprocessing.active_children()
        try:
            yield
        finally:
            self._started = [child for child in multiprocessing.active_children() if child not in before]

    def signal(self) -> None:
        """Send SIGKILL to all, without waiting."""
        for process in self._started:
            process.kill()

    async def shut_down(self, llm: Any, seconds: float) -> None:
        """Run vLLM's own shutdown; after so many seconds, send SIGKILL to all that are left.

        It blocks, so it runs in a daemon thread: one that hangs must not keep our process alive.
        """
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def in_thread() -> None:
            try:
                llm.shutdown(timeout=IN_ORDER_S + _FRONTEND_S)
            finally:
                loop.call_soon_threadsafe(ended.set)

        llm.output_handler.cancel()  # otherwise it logs the end of its engine as an error
        threading.Thread(target=in_thread, name="vllm-shutdown", daemon=True).start()
        for limit_s in (seconds, _FRONTEND_S):
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await ended.wait()
            self.signal()

    async def kill(self) -> None:
        """Send SIGKILL to all; they are gone when this returns."""
        for process in self._started:
            process.kill()
            await asyncio.to_thread(process.join)
        self._started = []


def collect_less() -> None:
    """Freeze the million objects that vLLM's import made: each full garbage collection would stop all for 0.4 s.

    Without them it takes milliseconds. vLLM does the same in EngineCore and in its server, but not in `AsyncLLM`.
    """
    gc.collect()
    gc.freeze()
