"""Benchmarks on one machine start their engines side by side and then measure one after the other.

A start is most of a short benchmark. `ROLLSTREAM_BENCH_TURNS` names a folder: whoever is ready says so in a file there
and waits for another that lets it go. Without the variable nothing waits.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

VARIABLE = "ROLLSTREAM_BENCH_TURNS"


async def my_turn(name: str) -> None:
    """Return when `name` may measure."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    ready, go = Path(folder, f"{name}.ready"), Path(folder, f"{name}.go")
    ready.touch()  # noqa: ASYNC240 - a local file, and nothing else runs
    while not go.exists():  # noqa: ASYNC110, ASYNC240 - another process's file
        await asyncio.sleep(0.1)


def is_ready(folder: Path, name: str) -> bool:
    """Whether `name` has started."""
    return (folder / f"{name}.ready").exists()


def let_go(folder: Path, name: str) -> None:
    """It is the turn of `name`."""
    (folder / f"{name}.go").touch()
