"""Benchmarks on one machine start their engines side by side and then measure one after the other.

A start is most of a short benchmark. `ROLLSTREAM_BENCH_TURN` is a path, another for each of them: whoever is ready says
so beside it and waits there until another lets it go. Without the variable nothing waits.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

VARIABLE = "ROLLSTREAM_BENCH_TURN"


class Turn:
    """The one of a process that was started with `VARIABLE` naming `path`."""

    def __init__(self, path: Path) -> None:
        self._ready, self._go = path.with_suffix(".ready"), path.with_suffix(".go")

    def is_asked_for(self) -> bool:
        """It has started, and waits."""
        return self._ready.exists()

    def let_go(self) -> None:
        """It may measure."""
        self._go.touch()

    async def wait(self) -> None:
        """Return when it may measure; said by itself."""
        self._ready.touch()
        while not self._go.exists():  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.1)


async def my_turn() -> None:
    """Return when this process may measure."""
    path = os.environ.get(VARIABLE)
    if path is not None:
        await Turn(Path(path)).wait()
