"""End a request with an error at the step whose logits allow no sampling.

If logits are NaN or infinite (broken weights, or numbers too large for float16), vLLM still samples some id. This uses
vLLM's own count of NaNs, which each token carries. Runs inside vLLM's own processes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

NOT_FINITE = "rollstream:logits-not-finite"
"""Stop reason of a request whose logits had no finite maximum."""

COUNT_NANS = "VLLM_COMPUTE_NANS_IN_LOGITS"
"""vLLM's switch for its count, off by default; see `worker.engines.vllm.setup`."""


def watch_rows(model_runner: Any) -> bool:
    """In a process with a model: make vLLM's count mark the rows without a finite maximum. False if it has no count.

    vLLM itself counts only NaNs, and would sample an infinite logit for ever.
    """
    sampler: Any = model_runner.sampler
    if sampler is None:  # another rank of a pipeline samples
        return True
    if hasattr(sampler, "compute_nans"):  # vLLM's V2 runner
        sampler.compute_nans = True
        return any(_replace(module, "get_num_nans", lost_rows) for module in _modules(sampler))
    if any(_replace(module, "count_nans_per_row", lost_rows) for module in _modules(model_runner)):  # from 0.28
        return True
    for kind in type(model_runner).__mro__:
        if count := vars(kind).get("_get_nans_in_logits"):  # up to 0.27
            return _replace(kind, "_get_nans_in_logits", _summarised(count))
    return False


def lost_rows(logits: Any) -> Any:
    """(rows, vocabulary) to (rows,) int32: 1 if there is no finite maximum, else 0. One pass, no synchronisation."""
    import torch  # noqa: PLC0415 - only there inside vLLM's processes

    return _summary(logits).isnan().sum(dim=-1, dtype=torch.int32)


def end_lost(engine_core: Any, error: Any) -> None:
    """In EngineCore's process, once: make `engine_core` (vLLM's class) end each request that has a lost row.

    `error` is vLLM's finish reason for errors.
    """
    if not hasattr(engine_core, "rollstream_ends_lost"):
        engine_core.rollstream_ends_lost = True
        for name in ("step", "step_with_batch_queue"):
            setattr(engine_core, name, _ending_lost(getattr(engine_core, name), error))


def can_end_lost(fields: tuple[str, ...]) -> bool:
    """Whether vLLM's `EngineCoreOutput` has the fields that `end_lost` needs."""
    return {"num_nans_in_logits", "finish_reason", "stop_reason", "request_id"} <= set(fields)


def _ending_lost(step: Any, error: Any) -> Any:
    def stepped(engine: Any) -> Any:
        outputs, executed = step(engine)
        for outcome in outputs.values() if outputs else ():
            lost = [output for output in outcome.outputs if output.num_nans_in_logits]
            if lost:
                engine.abort_requests([output.request_id for output in lost if output.finish_reason is None])
            for output in lost:
                output.finish_reason, output.stop_reason = error, NOT_FINITE
        return outputs, executed

    return stepped


def _summary(logits: Any) -> Any:
    """(rows, 1): NaN for a row without a finite maximum, else 0."""
    return logits.amax(dim=-1, keepdim=True) * 0


def _summarised(count: Any) -> Any:
    def counted(model_runner: Any, logits: Any) -> Any:
        return count(model_runner, None if logits is None else _summary(logits))

    return counted


def _modules(thing: Any) -> Iterator[Any]:
    """The modules of the object's class and of its base classes."""
    return (sys.modules[kind.__module__] for kind in type(thing).__mro__)


def _replace(owner: Any, name: str, by: Any) -> bool:
    """Replace a function in a module or class of vLLM, once. False if it has none of that name."""
    if not hasattr(owner, name):
        return False
    if not hasattr(owner, f"rollstream_{name}"):
        setattr(owner, f"rollstream_{name}", getattr(owner, name))
        setattr(owner, name, by)
    return True
