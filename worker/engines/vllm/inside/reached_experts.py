"""Which experts of a mixture the tokens of a probe reached. Runs inside vLLM's workers; imports no vLLM.

vLLM's routers tell a function the ids that they chose, in 0.26 as in 0.32. Not every kernel asks them, and a replayed
CUDA graph calls no function, so the tokens are counted too: a number that is not of all tokens is not given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True)
class _Layer:
    """One router while it is watched; its own calls alone change what is counted."""

    router: Any
    experts: set[int] = field(default_factory=set)
    tokens: int = 0

    def note(self, ids: Any) -> None:
        """`ids`: (tokens, k) chosen experts."""
        self.tokens += ids.shape[0]
        self.experts.update(expert for expert in ids.unique().tolist() if expert >= 0)


class ReachedExperts:
    """Watches the routers of one model from `__init__` to `end`."""

    def __init__(self, model: Any) -> None:
        self._layers = [_Layer(router=router) for router in routers_of(model)]
        for layer in self._layers:
            layer.router.set_capture_fn(layer.note)

    def end(self, tokens: int) -> tuple[int, int] | None:
        """How many experts, layer by layer, `tokens` tokens reached, and how many there are; None if it is unknown."""
        for layer in self._layers:
            layer.router.set_capture_fn(None)
        if not self._layers or any(layer.tokens != tokens for layer in self._layers):
            return None
        reached = sum(len(layer.experts) for layer in self._layers)
        return reached, sum(layer.router.global_num_experts for layer in self._layers)


def routers_of(model: Any) -> list[Any]:
    """The routers of a model; none if vLLM itself listens to them, as it does to give them to its users."""
    named: list[Any] = [getattr(layer, "router", None) for layer in model.modules()]
    routers = list({id(router): router for router in named if _tells(router)}.values())
    return routers if all(router.capture_fn is None for router in routers) else []


def _tells(router: Any) -> bool:
    return all(hasattr(router, name) for name in ("set_capture_fn", "capture_fn", "global_num_experts"))
