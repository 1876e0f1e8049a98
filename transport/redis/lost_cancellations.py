"""redis-py loses a cancellation now and then: it answers as if nothing were, or with an error of its own.

Code that awaits it must therefore ask afterwards whether its task was cancelled *meanwhile*. A task that was cancelled
before, and cleans up now, must not be taken for one that is cancelled again: nothing would ever be cleaned up.
"""

from __future__ import annotations

import asyncio


def cancellations() -> int:
    """How often the running task was cancelled and has not taken that back; 0 outside of a task."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def cancellations_so_far() -> int:
    """The same, all of them delivered: a task that cancelled itself hears of it at its next await, this one."""
    if count := cancellations():
        await asyncio.sleep(0)
    return count
