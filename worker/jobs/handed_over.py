"""Has the engine hand over what it has sampled, before somebody looks at running completions."""

from __future__ import annotations

import asyncio

import structlog

from ..engine import Engine

RELEASE_S = 0.5
"""So long it waits for tokens that are still in the engine's process."""

log = structlog.get_logger()


async def hand_over(engine: Engine) -> None:
    """Ask for all tokens that it has sampled. Without an answer in time `partials` lacks some, and the log says so."""
    try:
        async with asyncio.timeout(RELEASE_S):
            await engine.release()
    except Exception as error:  # noqa: BLE001 - vLLM's failed calls are bare Exceptions; the caller goes on without
        log.warning("tokens that the engine holds are not handed over", error=str(error) or "it does not answer")
