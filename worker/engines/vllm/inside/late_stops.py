"""Stop ids that end a completion only after `min_new_tokens`, and are allowed before.

vLLM has no such ids: its stop ids always end a completion, so it bans them until then. Runs inside EngineCore.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LATE_STOPS = "rollstream_late_stops"
"""The name in a request's `extra_args` for its late stop ids."""

_FIELD = "rollstream_late"
"""The attribute of an engine with its requests that have such ids."""


@dataclass(slots=True, kw_only=True)
class _Late:
    ids: frozenset[int]
    min_tokens: int
    tokens: int = 0

    def end(self, new_token_ids: list[int]) -> int | None:
        """The number of new tokens up to the one that ends the request, that one included; None if none does.

        A step gives several tokens if the engine guesses ahead.
        """
        enough = max(self.min_tokens - self.tokens, 0)
        self.tokens += len(new_token_ids)
        ends = (number for number, token in enumerate(new_token_ids) if number >= enough and token in self.ids)
        return next((number + 1 for number in ends), None)


def end_late(engine_core: Any, stop: Any) -> None:
    """Make `engine_core` (vLLM's class) obey `LATE_STOPS`, once; `stop` is vLLM's finish reason for a stop id."""
    if hasattr(engine_core, "rollstream_ends_late"):
        return
    engine_core.rollstream_ends_late = True
    engine_core.add_request = _noting(engine_core.add_request)
    for name in ("step", "step_with_batch_queue"):
        setattr(engine_core, name, _ending_late(getattr(engine_core, name), stop))


def _noting(add_request: Any) -> Any:
    def added(engine: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        params = request.sampling_params
        if params is not None and params.extra_args and LATE_STOPS in params.extra_args:
            late = _Late(ids=frozenset(params.extra_args[LATE_STOPS]), min_tokens=params.min_tokens)
            vars(engine).setdefault(_FIELD, {})[request.request_id] = late
        return add_request(engine, request, *args, **kwargs)

    return added


def _ending_late(step: Any, stop: Any) -> Any:
    def stepped(engine: Any) -> Any:
        outputs, executed = step(engine)
        late = vars(engine).get(_FIELD)
        if late and outputs:
            for outcome in outputs.values():
                _end(engine, outcome.outputs, late, stop)
        return outputs, executed

    return stepped


def _end(engine: Any, outputs: list[Any], late: dict[str, _Late], stop: Any) -> None:
    for output in outputs:
        noted = late.get(output.request_id)
        length = None if noted is None else noted.end(output.new_token_ids)
        if length is not None and _comes_first(output, length):
            if output.finish_reason is None:
                engine.abort_requests([output.request_id])
            _cut(output, length)
            output.finish_reason, output.stop_reason = stop, output.new_token_ids[-1]
        if output.finish_reason is not None:
            late.pop(output.request_id, None)
    if len(late) > len(engine.scheduler.requests):  # an aborted one has no last output
        for name in late.keys() - engine.scheduler.requests.keys():
            del late[name]


def _comes_first(output: Any, length: int) -> bool:
    """Whether the late stop comes before vLLM's own stop.

    vLLM's stop id can only be the last token. A reason in words is an error, which concerns all tokens of the step.
    """
    if output.stop_reason is None:
        return True
    return isinstance(output.stop_reason, int) and length < len(output.new_token_ids)


def _cut(output: Any, length: int) -> None:
    if length == len(output.new_token_ids):
        return
    output.new_token_ids = output.new_token_ids[:length]
    if output.new_logprobs is not None:
        output.new_logprobs = output.new_logprobs.slice_request(0, length)
