"""End a request whose guide takes too much of a processor. Runs inside EngineCore; imports no vLLM.

A guide was tried before the engine saw it, but only for a bounded number of tokens. What is slow after a rare text, or
further on, would hold up all other requests at each of its tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TOO_SLOW = "rollstream:guide-too-slow"
"""Stop reason of a request whose guide took too long."""

ALLOWED_S = 1.0
"""Seconds of a processor for the guide of one sequence, beside `A_TOKEN_S` for each token."""
A_TOKEN_S = 0.002

_SPENT = "rollstream_spent"
_ENDED = "rollstream_too_slow"


def bound(grammar: Any, *, clock: Callable[[], float] = time.thread_time) -> None:
    """Make `grammar` (vLLM's class of a guide that is followed) refuse the next token once it has taken too long."""
    if hasattr(grammar, _ENDED):
        return
    ended: set[str] = set()
    setattr(grammar, _ENDED, ended)
    accept, fill = grammar.accept_tokens, grammar.fill_bitmask

    def accepted(self: Any, request_id: str, tokens: list[int]) -> bool:
        began = clock()
        is_allowed: bool = accept(self, request_id, tokens)
        if not _spend(self, clock() - began - A_TOKEN_S * len(tokens)):
            return is_allowed
        ended.add(request_id)
        return False

    def filled(self: Any, *args: Any) -> Any:
        began = clock()
        mask = fill(self, *args)
        _spend(self, clock() - began)
        return mask

    grammar.accept_tokens, grammar.fill_bitmask = accepted, filled


def _spend(guide: Any, seconds: float) -> bool:
    """Whether the guide has spent more than it may; what it saves at one token it may spend at another."""
    spent = getattr(guide, _SPENT, 0.0) + seconds
    setattr(guide, _SPENT, max(spent, 0.0))
    return spent > ALLOWED_S


def tell(engine_core: Any, grammar: Any) -> None:
    """Make `engine_core` (vLLM's class) name the reason in the outputs of such requests, once."""
    if hasattr(engine_core, _ENDED):
        return
    setattr(engine_core, _ENDED, True)
    for name in ("step", "step_with_batch_queue"):
        setattr(engine_core, name, _telling(getattr(engine_core, name), getattr(grammar, _ENDED)))


def _telling(step: Any, ended: set[str]) -> Any:
    def stepped(engine: Any) -> Any:
        outputs, executed = step(engine)
        if ended and outputs:
            for outcome in outputs.values():
                for output in outcome.outputs:
                    if output.request_id in ended:
                        output.stop_reason = TOO_SLOW
            ended.intersection_update(engine.scheduler.requests)
        return outputs, executed

    return stepped
