"""An engine that no longer steps is found, also one that says it is well."""

from __future__ import annotations

import asyncio

from ..engine import Engine


async def watch(engine: Engine, timeout_s: float) -> None:
    """Ask for a round trip between two steps, for ever, a few seconds apart.

    Raises `EngineDiedError` when the engine does not answer within `timeout_s`. Its `check` waits for the end of a
    load of weights, which has a limit of its own.

    vLLM's own `check_health` passes on an engine whose input thread has died (vLLM issues 26139, 26196).
    """
    while True:
        await engine.check()
        await asyncio.sleep(min(5.0, timeout_s / 4))
