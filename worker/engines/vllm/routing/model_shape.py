"""What the routing of a model's tokens looks like, by its config. Pure; the names are those that vLLM looks for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rollstream.schemas.wire.routing import RoutingShape

_EXPERTS = "num_experts", "n_routed_experts", "num_local_experts"
_CHOSEN = "num_experts_per_tok", "top_k_experts"
_LAYERS = ("num_hidden_layers",)


def is_mixture(model: Path | str) -> bool:
    """Whether the folder's config names experts. vLLM does not start with the flag for any other model."""
    try:
        config = json.loads((Path(model) / "config.json").read_text())
    except (OSError, ValueError):
        return False
    text = config.get("text_config") if isinstance(config, dict) else None
    parts = [part for part in (text, config) if isinstance(part, dict)]
    return any(_first(part.get, _EXPERTS) and _first(part.get, _CHOSEN) for part in parts)


def shape_of(hf_text_config: Any, layers_with_experts: Iterable[int]) -> RoutingShape | None:
    """The shape by vLLM's own config of the text model and the layers that have routers; None: unknown."""
    named = [_first(lambda name: getattr(hf_text_config, name, None), names) for names in (_LAYERS, _CHOSEN, _EXPERTS)]
    found = set(layers_with_experts)
    if None in named or not found:
        return None
    layers, k, experts = (int(number) for number in named if number is not None)
    if max(found) >= layers or not 1 <= k <= experts:
        return None
    dense = tuple(layer for layer in range(layers) if layer not in found)
    return RoutingShape(layers=layers, k=k, experts=experts, dense=dense)


def _first(read: Any, names: Iterable[str]) -> int | None:
    return next((value for name in names if type(value := read(name)) is int and value > 0), None)
