"""No process of vLLM is left behind, whatever vLLM's own shutdown does. Imports no vLLM."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import Any

SHUTDOWN_S = 10.0
"""What EngineCore and its workers get to end by themselves before SIGKILL; an interpreter's exit alone takes 5 s."""


class Processes:
    """Those that were started within `collect`."""

    def __init__(self) -> None:
        self._started: list[BaseProcess] = []

    @property
    def pids(self) -> list[int]:
        """Of those not ended by `kill`."""
        return [process.pid for process in self._started if process.pid is not None]

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Also where the block fails."""
        before = multiprocessing.active_children()
        try:
            yield
        finally:
            self._started = [child for child in multiprocessing.active_children() if child not in before]

    def signal(self) -> None:
        """SIGKILL to all, without waiting."""
        for process in self._started:
            process.kill()

    async def kill(self) -> None:
        """SIGKILL to all; they are gone when this returns."""
        for process in self._started:
            process.kill()
            await asyncio.to_thread(process.join)
        self._started = []


async def shut_down(llm: Any) -> None:
    """vLLM's own shutdown blocks. In a daemon thread: one that hangs must not keep our process."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def in_thread() -> None:
        try:
            llm.shutdown(timeout=SHUTDOWN_S)
        finally:
            loop.call_soon_threadsafe(ended.set)

    llm.output_handler.cancel()  # else it logs the end of its engine as an error
    threading.Thread(target=in_thread, name="vllm-shutdown", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(SHUTDOWN_S + 5):
            await ended.wait()
