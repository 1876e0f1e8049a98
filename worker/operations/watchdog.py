"""Find an engine that no longer steps, even if it says that it is well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..engine import Engine


async def watch(engine: Engine, timeout_s: float, stepped: Callable[[], None]) -> None:
    """Every few seconds, ask the engine for an answer between two of its steps, for ever. Calls `stepped` after each.

    Raises `EngineDiedError` when the engine does not answer within `timeout_s`. Its `check` waits for the end of a
    load of weights, which has a limit of its own.

    vLLM's own `check_health` passes on an engine whose input thread has died (vLLM issues 26139, 26196).
    """
    while True:
        await engine.check()
        stepped()
        await asyncio.sleep(min(5.0, timeout_s / 4))
