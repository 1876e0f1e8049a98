"""How full the KV cache is, and how often vLLM took a running sequence's part of it away. Runs inside EngineCore.

vLLM tells this with its statistics only, and those leave the engine at every step. Imports no vLLM.
"""

from __future__ import annotations

import functools
from typing import Any

_COUNT = "rollstream_preemptions"


def tell(engine_core: Any, scheduler: Any) -> None:
    """Give `engine_core` the utility, and make `scheduler` count (both are vLLM's classes). Safe to call twice."""
    if hasattr(engine_core, "rollstream_memory_use"):
        return
    engine_core.rollstream_memory_use = lambda engine: _use(engine.scheduler)
    if hasattr(scheduler, "_preempt_request"):
        setattr(scheduler, _COUNT, 0)
        scheduler._preempt_request = _counted(scheduler._preempt_request)
        scheduler.reset_prefix_cache = _not_counted(scheduler.reset_prefix_cache)


def _use(scheduler: Any) -> list[float]:
    """Used share, running, waiting, preemptions; nothing where this vLLM cannot tell."""
    if not hasattr(scheduler, _COUNT):
        return []
    running = len(scheduler.running)
    waiting = max(0, len(scheduler.requests) - running)
    return [float(scheduler.kv_cache_manager.usage), running, waiting, getattr(scheduler, _COUNT)]


def _counted(preempt: Any) -> Any:
    @functools.wraps(preempt)
    def counted(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        setattr(scheduler, _COUNT, getattr(scheduler, _COUNT) + 1)
        return preempt(scheduler, *args, **kwargs)

    return counted


def _not_counted(reset: Any) -> Any:
    """A swap puts all running requests back: that is no lack of memory."""

    @functools.wraps(reset)
    def uncounted(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        before = getattr(scheduler, _COUNT)
        try:
            return reset(scheduler, *args, **kwargs)
        finally:
            setattr(scheduler, _COUNT, before)

    return uncounted
