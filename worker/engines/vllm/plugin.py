"""Runs inside vLLM's own processes: no engine outlives its worker, hangs unnoticed, or mixes up adapters on the CPU,
and none sends its tokens one by one.

The entry point `rollstream` of the group `vllm.general_plugins`; vLLM calls `register` in each process it starts.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import threading
from dataclasses import fields
from typing import Any

from .. import vllm_versions
from . import one_more, start
from .columns import Rows
from .inside import (
    guide_costs,
    hand_over,
    held_requests,
    late_stops,
    logits,
    memory_use,
    own_adapters,
    own_columns,
    rotary,
    step_rows,
)
from .inside.held_tokens import HeldBack, unfit_output, unfit_rows, unfit_tensors
from .metrics import sparse_statistics

WORKER_PID = "ROLLSTREAM_WORKER_PID"
"""Set by the worker that starts vLLM. Without it the plugin does nothing, so it disturbs no other vLLM."""

_PR_SET_PDEATHSIG = 1
_log = logging.getLogger("vllm.rollstream")
"""A child of vLLM's logger, which has the handlers in vLLM's processes."""


def register() -> None:
    """Guard this process if a Rollstream worker started it. Safe to call twice.

    Raises `UnsupportedVllmError`, which ends the engine's start: what is changed below is changed in known versions.
    """
    parent = multiprocessing.parent_process()
    worker = os.environ.get(WORKER_PID)
    if worker == str(os.getpid()):
        _read_logprobs_at_once()
        _read_scores_at_once()
    if worker is None or worker == str(os.getpid()) or parent is None:
        return
    start.report_failures(os.environ, logging.getLogger("vllm"))
    vllm_versions.check(os.environ, vllm_versions.installed())
    _die_with_parent()
    _leave_interrupts_to_the_worker()
    _fail_when_the_input_thread_fails()
    _plan_for_what_was_asked()
    _rule_over_requests()
    steps = _send_statistics_rarely()
    _send_pieces(events=steps is not None)
    _give_each_its_columns()
    _mend_adapters_on_the_cpu()
    _mend_rotary_positions_on_the_cpu()
    _offer_links()


def _die_with_parent() -> None:
    """vLLM issues 55510 and 34816: a killed frontend leaves EngineCore and its workers behind for ever."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # the parent died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def _leave_interrupts_to_the_worker() -> None:
    """Ignore Ctrl-C, which reaches all processes of a terminal: the engine would abort what its worker is draining.

    Up to 0.31 vLLM sets a handler of its own after this, just before EngineCore's loop begins.
    """
    from vllm.v1.engine.core import EngineCoreProc  # noqa: PLC0415 - vLLM is only there inside its processes

    _ignore_interrupts()
    loop = EngineCoreProc.run_busy_loop
    if hasattr(loop, "ignores_interrupts"):
        return

    def run_busy_loop(engine: Any) -> Any:
        _ignore_interrupts()
        return loop(engine)

    run_busy_loop.ignores_interrupts = True  # type: ignore[attr-defined] # a mark for the second call
    EngineCoreProc.run_busy_loop = run_busy_loop


def _ignore_interrupts() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fail_when_the_input_thread_fails() -> None:
    """vLLM issues 26139 and 26196: a request that cannot be decoded ends the input thread, and the engine hangs.

    Turn that into the death of the engine, which the frontend sees at once.
    """
    from vllm.v1.engine import EngineCoreRequestType  # noqa: PLC0415 - vLLM is only there inside its processes
    from vllm.v1.engine.core import EngineCoreProc  # noqa: PLC0415

    read_requests = EngineCoreProc.process_input_sockets
    if hasattr(read_requests, "fails_the_engine"):
        return

    def process_input_sockets(engine: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return read_requests(engine, *args, **kwargs)
        except BaseException:
            engine.input_queue.put_nowait((EngineCoreRequestType.EXECUTOR_FAILED, b""))
            raise

    process_input_sockets.fails_the_engine = True  # type: ignore[attr-defined] # a mark for the second call
    EngineCoreProc.process_input_sockets = process_input_sockets


def _plan_for_what_was_asked() -> None:
    """See `worker.engines.vllm.one_more`."""
    from vllm.v1.engine import core  # noqa: PLC0415 - vLLM is only there inside its processes

    one_more.plan_without(core)


def _rule_over_requests() -> None:
    """See `worker.engines.vllm.inside.logits`, `guide_costs`, `late_stops` and `held_requests`.

    Must come before `_send_pieces`, which holds tokens back.
    """
    from vllm.v1.engine import EngineCoreOutput, FinishReason  # noqa: PLC0415 - see above
    from vllm.v1.engine.core import EngineCore  # noqa: PLC0415
    from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar  # noqa: PLC0415

    if logits.can_end_lost(EngineCoreOutput.__struct_fields__):
        logits.end_lost(EngineCore, FinishReason.ERROR)
    guide_costs.bound(XgrammarGrammar)
    guide_costs.tell(EngineCore, XgrammarGrammar)
    late_stops.end_late(EngineCore, FinishReason.STOP)
    held_requests.hold_on_demand(EngineCore)


def _send_statistics_rarely() -> int | None:
    """See `worker.engines.vllm.metrics.sparse_statistics`. Returns the number of steps, None if statistics are off."""
    if (steps := os.environ.get(sparse_statistics.STEPS_VARIABLE)) is None:
        return None
    from vllm.v1.core.sched.scheduler import Scheduler  # noqa: PLC0415 - vLLM is only there inside its processes
    from vllm.v1.spec_decode.metrics import SpecDecodingStats  # noqa: PLC0415

    speculation = [field.name for field in fields(SpecDecodingStats)]
    if unfit := sparse_statistics.unfit(Scheduler.make_stats, speculation):
        _log.warning("statistics leave the engine at every step, slowly: this vLLM has others (%s)", ", ".join(unfit))
    else:
        sparse_statistics.send_rarely(Scheduler, int(steps))
    return int(steps)


def _send_pieces(*, events: bool) -> None:
    """See `worker.engines.vllm.inside.held_tokens`, `hand_over` and `memory_use`."""
    from vllm.v1.core.sched.scheduler import Scheduler  # noqa: PLC0415 - vLLM is only there inside its processes
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs  # noqa: PLC0415
    from vllm.v1.engine.core import EngineCore, EngineCoreProc  # noqa: PLC0415
    from vllm.v1.outputs import LogprobsLists  # noqa: PLC0415

    if hasattr(EngineCore.step, "sends_pieces"):
        return
    held: dict[int, HeldBack] = {}
    memory_use.tell(EngineCore, Scheduler)
    hand_over.on_demand(EngineCoreProc, EngineCoreOutputs, held)
    if unfit := unfit_output(EngineCoreOutput.__struct_fields__, LogprobsLists._fields):
        _log.warning("tokens leave the engine one by one, slowly: this vLLM has other outputs (%s)", ", ".join(unfit))
        return
    step_rows.keep_whole(Scheduler)
    for name in ("step", "step_with_batch_queue"):
        setattr(EngineCore, name, hand_over.holding_back(getattr(EngineCore, name), held, events=events))


def _give_each_its_columns() -> None:
    """See `worker.engines.vllm.inside.own_columns`."""
    from vllm.v1.sample.sampler import Sampler  # noqa: PLC0415 - vLLM is only there inside its processes

    own_columns.give(Sampler)


def _read_logprobs_at_once() -> None:
    """In the worker's own process: keep the log-probs of a piece as they came; vLLM would read each position."""
    from vllm.logprobs import FlatLogprobs  # noqa: PLC0415 - imported with vLLM only
    from vllm.v1.engine.logprobs import LogprobsProcessor  # noqa: PLC0415
    from vllm.v1.outputs import LogprobsLists  # noqa: PLC0415

    if unfit := unfit_rows(LogprobsLists._fields):
        _log.warning("log-probs are read one by one, slowly: this vLLM has others (%s)", ", ".join(unfit))
        return
    one_by_one = LogprobsProcessor._update_sample_logprobs
    if hasattr(one_by_one, "at_once"):
        return

    def update(processor: Any, rows: Any) -> None:
        if isinstance(processor.logprobs, FlatLogprobs) and processor.num_logprobs >= 0:  # the first rows
            processor.logprobs = Rows(columns=1 + processor.num_logprobs)
        if isinstance(processor.logprobs, Rows):
            processor.cumulative_logprob += processor.logprobs.add(rows)
        else:
            one_by_one(processor, rows)

    update.at_once = True  # type: ignore[attr-defined] # a mark for the second call
    LogprobsProcessor._update_sample_logprobs = update


def _read_scores_at_once() -> None:
    """The same for the log-probs of a prompt, which come in one piece, or in one for each chunk of it."""
    from vllm.logprobs import FlatLogprobs  # noqa: PLC0415 - imported with vLLM only
    from vllm.v1.engine.logprobs import LogprobsProcessor  # noqa: PLC0415
    from vllm.v1.outputs import LogprobsLists, LogprobsTensors  # noqa: PLC0415

    if unfit := unfit_rows(LogprobsLists._fields) or unfit_tensors(LogprobsTensors._fields):
        _log.warning("scores are read one by one, slowly: this vLLM has others (%s)", ", ".join(unfit))
        return
    one_by_one = LogprobsProcessor._update_prompt_logprobs
    if hasattr(one_by_one, "at_once"):
        return

    def update(processor: Any, tensors: Any) -> None:
        if isinstance(processor.prompt_logprobs, FlatLogprobs) and processor.num_prompt_logprobs >= 0:
            processor.prompt_logprobs = Rows(columns=1 + processor.num_prompt_logprobs)
        if isinstance(processor.prompt_logprobs, Rows):
            processor.prompt_logprobs.add(tensors.tolists())
        else:
            one_by_one(processor, tensors)

    update.at_once = True  # type: ignore[attr-defined] # a mark for the second call
    LogprobsProcessor._update_prompt_logprobs = update


def _mend_adapters_on_the_cpu() -> None:
    """See `worker.engines.vllm.inside.own_adapters`."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - vLLM is only there inside its processes

    if current_platform.is_cpu():
        from vllm.lora.ops.torch_ops import lora_ops  # noqa: PLC0415 - see above
        from vllm.lora.punica_wrapper import punica_cpu  # noqa: PLC0415

        own_adapters.give(lora_ops, punica_cpu)


def _mend_rotary_positions_on_the_cpu() -> None:
    """See `worker.engines.vllm.inside.rotary`."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - vLLM is only there inside its processes

    if current_platform.is_cpu():
        from vllm import _custom_ops  # noqa: PLC0415 - see above

        rotary.give_rows(_custom_ops)


def _offer_links() -> None:
    """Let weights come through our own links (`--weight-transfer gloo|ipc`)."""
    from .inside import linked_transfer  # noqa: PLC0415 - imports vLLM, which is only there inside its processes

    linked_transfer.register()
