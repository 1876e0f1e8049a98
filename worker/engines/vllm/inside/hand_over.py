"""Hold tokens back after each step, and hand them over at once where a drain, an abort or a pause would lose them.

Runs inside EngineCore, between two steps: its messages leave in order, so all tokens of a request come before its end.
Imports no vLLM.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from .held_tokens import HeldBack

_MARK = "hands_over"


def on_demand(engine_core: Any, message: Any, held: Mapping[int, HeldBack]) -> None:
    """Give `engine_core` (vLLM's class `EngineCoreProc`) the utility, and hand over before each pause. Safe to repeat.

    `message`: vLLM's class `EngineCoreOutputs`. `held`: what is held back, by the number of the client.
    """
    pause = engine_core.pause_scheduler
    if hasattr(pause, _MARK):
        return

    def hand_over(engine: Any) -> dict[str, int]:
        """How many tokens EngineCore has sampled, for each request that has not ended."""
        send(engine, message, held)
        return {name: request.num_output_tokens for name, request in engine.scheduler.requests.items()}

    @functools.wraps(pause)  # vLLM looks at its signature
    def pause_scheduler(engine: Any, *args: Any, **kwargs: Any) -> Any:
        send(engine, message, held)
        return pause(engine, *args, **kwargs)

    setattr(pause_scheduler, _MARK, True)
    engine_core.rollstream_hand_over = hand_over
    engine_core.pause_scheduler = pause_scheduler


def send(engine: Any, message: Any, held: Mapping[int, HeldBack]) -> None:
    """Put all that is held back into the engine's queue of outputs, under the version that sampled it."""
    for client, holding in held.items():
        if outputs := holding.hand_over():
            version = {} if holding.version is None else {"weight_version": holding.version}
            engine.output_queue.put_nowait((client, message(outputs=outputs, **version)))


def holding_back(step: Any, held: dict[int, HeldBack], *, events: bool) -> Any:
    """`step` of EngineCore, from which only what is to be sent now comes out."""

    def stepped(engine: Any) -> Any:
        outputs, executed = step(engine)
        for client, outcome in list(outputs.items()) if outputs else ():
            holding = held.setdefault(client, HeldBack(events=events))
            version = holding.version
            earlier = holding.take(outcome, engine.scheduler.requests)
            if _stands_still(engine):
                outcome.outputs += holding.hand_over()
            if earlier:
                engine.output_queue.put_nowait((client, type(outcome)(outputs=earlier, weight_version=version)))
            if not (outcome.outputs or outcome.scheduler_stats or outcome.finished_requests):
                del outputs[client]
        return outputs, executed

    stepped.sends_pieces = True  # type: ignore[attr-defined] # a mark for the second call
    return stepped


def _stands_still(engine: Any) -> bool:
    """Whether it is paused and goes on with nothing: what a last step gave must not wait for the next."""
    state = getattr(engine.scheduler, "pause_state", None)
    return getattr(state, "name", "") == "PAUSED_ALL"
