"""redis-py sometimes loses a cancellation: it answers as if there were none, or raises an error of its own.

So code that awaits redis-py must ask afterwards whether its task was cancelled *meanwhile*. A task that was cancelled
before, and is cleaning up now, must not count as cancelled again, or it could never clean up.
"""

from __future__ import annotations

import asyncio


def cancellations() -> int:
    """How often the running task was cancelled, less `uncancel` calls; 0 outside of a task."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def cancellations_so_far() -> int:
    """The same, after all cancellations were delivered: a task that cancelled itself notices it at its next await."""
    if count := cancellations():
        await asyncio.sleep(0)
    return count
