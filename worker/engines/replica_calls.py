"""One call to several engines at the same time, of which none outlives the death of another."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from ..errors import EngineDiedError


async def all_of(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all calls, then raise the first error. The death of an engine is raised at once and cancels the rest."""
    errors: list[BaseException] = []
    running = {asyncio.create_task(call) for call in calls}
    try:
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            errors += [error for task in done if (error := task.exception()) is not None]
            for error in errors:
                if isinstance(error, EngineDiedError):
                    raise error
    finally:
        for task in running:
            task.cancel()
    if errors:
        raise errors[0]
