"""Which layers of a model tell vLLM the experts that they choose. Runs inside vLLM's workers; imports no vLLM."""

from __future__ import annotations

from typing import Any

ROUTED = "rollstream_routed"
"""The name in a request's `extra_args` that asks for its routing; others do without, and cost nothing to send."""


def layers_of(model: Any) -> tuple[list[int], str]:
    """The layers with routers, in order, and why vLLM does not see all their choices; empty if it does."""
    found: dict[int, str] = {}
    for name, layer in model.named_modules():
        router = getattr(layer, "router", None)
        number = getattr(layer, "layer_id", None)
        if hasattr(router, "set_capture_fn") and type(number) is int:
            found[number] = _doubt(name, layer, router)
    if not found:
        return [], "no layer of the model has a router that vLLM listens to"
    return sorted(found), next(filter(None, found.values()), "")


def _doubt(name: str, layer: Any, router: Any) -> str:
    if getattr(layer, "is_monolithic", False):
        return f"{name} runs in a kernel that chooses experts by itself: try another moe_backend, such as triton"
    if getattr(router, "capture_fn", None) is None:
        return f"nobody listens to the router of {name}"
    return ""
