"""Hold all requests of an engine back while a probe runs alone, so that unproven weights sample no token of a job.

Runs inside EngineCore, as utilities that the worker calls while the engine is paused, so that no step is under way.
Imports no vLLM: it knows a waiting queue by its methods.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_FIELD = "rollstream_held"
"""The attribute of an engine that holds requests back."""
_NEEDED = ("waiting", "running", "requests", "pause_state", "_enqueue_waiting_request")
_CONNECTORS = ("connector", "ec_connector")


@dataclass(slots=True, kw_only=True)
class _Held:
    """What waited when the hold began, and what has come since. Only `hold` and the scheduler's `add_request` fill it.

    A request that is aborted meanwhile leaves the scheduler's table, and is dropped at the release.
    """

    queues: dict[str, Any]
    """The scheduler's waiting queues, by their names."""
    deferred: set[Any]
    """Those of them that its last step passed over (0.31 and later)."""
    late: list[Any] = field(default_factory=list)


def hold_on_demand(engine_core: Any) -> None:
    """Give `engine_core` (vLLM's class) the three utilities; safe to call twice."""
    engine_core.rollstream_hold_doubt = lambda engine: why_not(engine.scheduler)
    engine_core.rollstream_hold = hold
    engine_core.rollstream_release = release


def why_not(scheduler: Any) -> str:
    """Why requests cannot be held back in this vLLM, or ''."""
    if lacking := [name for name in _NEEDED if not hasattr(scheduler, name)]:
        return f"this vLLM cannot hold requests back: its scheduler has no {', '.join(lacking)}"
    if any(getattr(scheduler, name, None) is not None for name in _CONNECTORS):
        return "requests cannot be held back beside a KV or encoder connector"
    return ""


def hold(engine: Any, prefix: str) -> None:
    """Let only requests run whose id begins with `prefix`; all others wait for `release`. A second hold does nothing.

    Raises RuntimeError unless the engine is paused, runs nothing, and waits with all of its requests in known queues.
    """
    if hasattr(engine, _FIELD):
        return
    scheduler = engine.scheduler
    queues = {name: value for name, value in vars(scheduler).items() if hasattr(value, "prepend_request")}
    waiting = {request.request_id for queue in queues.values() for request in queue}
    if problem := why_not(scheduler) or _not_now(engine, waiting):
        raise RuntimeError(problem)
    held = _Held(queues=queues, deferred=set(getattr(scheduler, "deferred_waiting", ())))
    enqueue = scheduler._enqueue_waiting_request

    def divert(request: Any) -> None:
        if request.request_id.startswith(prefix):
            enqueue(request)
        else:
            held.late.append(request)

    for name, queue in queues.items():
        setattr(scheduler, name, type(queue)())
    if held.deferred:
        scheduler.deferred_waiting = set()
    scheduler._enqueue_waiting_request = divert
    setattr(engine, _FIELD, held)


def release(engine: Any) -> None:
    """Put back, in their order, all requests that were held and are not aborted. Without a hold it does nothing."""
    held = vars(engine).pop(_FIELD, None)
    if held is None:
        return
    scheduler = engine.scheduler

    def is_gone(request: Any) -> bool:
        return scheduler.requests.get(request.request_id) is not request or request.is_finished()

    del scheduler._enqueue_waiting_request  # the method of its class is back
    for name, queue in held.queues.items():
        probes = getattr(scheduler, name)
        queue.remove_requests([request for request in queue if is_gone(request)])
        for request in probes:
            queue.add_request(request)
        setattr(scheduler, name, queue)
    if held.deferred:
        scheduler.deferred_waiting |= {request for request in held.deferred if not is_gone(request)}
    for request in held.late:
        if not is_gone(request):
            scheduler._enqueue_waiting_request(request)


def _not_now(engine: Any, waiting: set[str]) -> str:
    scheduler = engine.scheduler
    if not engine.is_scheduler_paused() or scheduler.running or getattr(engine, "batch_queue", None):
        return "requests can be held back only in a paused engine that has put them all back to wait"
    if unknown := scheduler.requests.keys() - waiting:
        return f"this vLLM cannot hold requests back: {len(unknown)} are in no waiting queue, e.g. {min(unknown)}"
    return ""
