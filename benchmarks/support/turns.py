"""Benchmarks on one machine start their engines side by side and then measure one after the other.

Most of a short benchmark is its start. `ROLLSTREAM_BENCH_TURN` is a path, a different one for each benchmark: when it
is ready it makes a file there and waits for another file that lets it go on. Without the variable nothing waits.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

VARIABLE = "ROLLSTREAM_BENCH_TURN"


class Turn:
    """The turn of a process that was started with `path` in `VARIABLE`."""

    def __init__(self, path: Path) -> None:
        self._ready, self._go = path.with_suffix(".ready"), path.with_suffix(".go")

    def is_asked_for(self) -> bool:
        """Whether the process has started and waits."""
        return self._ready.exists()

    def let_go(self) -> None:
        """Let the process measure."""
        self._go.touch()

    async def wait(self) -> None:
        """Called by the process itself: return when it may measure."""
        self._ready.touch()
        while not self._go.exists():  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.1)


async def my_turn() -> None:
    """Return when this process may measure."""
    path = os.environ.get(VARIABLE)
    if path is not None:
        await Turn(Path(path)).wait()
