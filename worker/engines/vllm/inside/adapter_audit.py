"""Runs inside vLLM's workers: check that an adapter is in the model as a whole, and remove one that is not.

vLLM keeps an adapter that it could load only in part. It also drops tensors for which there is no layer, and writes a
tensor that is too small into a part of its layer, without any message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class AdapterAudit:
    """The methods become methods of vLLM's worker, so that `collective_rpc` can call them."""

    model_runner: Any

    def rollstream_adapter_problem(self, int_id: int, num_tensors: int) -> str:
        """Why an adapter from a file of `num_tensors` tensors is not in the model as a whole; empty if it is.

        Must be called before the next step, which may give the adapter's slot to another.
        """
        manager = _manager(self.model_runner)
        found = manager.get_adapter(int_id)
        if found is None or int_id not in manager.lora_index_to_id:
            return "vLLM did not keep it"
        return _problem(manager, found.loras, num_tensors)

    def rollstream_forget_adapter(self, int_id: int) -> bool:
        """Remove the adapter from every place where it may be. Returns whether it is gone.

        What the load wrote into a slot does no harm: the next adapter in that slot writes or clears every layer.
        """
        manager = _manager(self.model_runner)
        manager.remove_adapter(int_id)
        return int_id not in {*manager.list_adapters(), *manager._active_adapters.cache, *manager.lora_index_to_id}


def _manager(model_runner: Any) -> Any:
    return model_runner.lora_manager._adapter_manager


def _problem(manager: Any, loras: dict[str, Any], num_tensors: int) -> str:
    if astray := sorted(loras.keys() - manager.modules.keys()):
        return _astray(astray, _names(manager))
    if heads := [module for module in loras if module.rpartition(".")[2] == "lm_head"]:
        return (
            f"it has tensors for the output layer ({heads[0]}), with which vLLM computes no scores: train it without "
            "lm_head among its target_modules"
        )
    landed = 0
    for module, weights in loras.items():
        for lower, upper, width, height in _pairs(manager.modules[module], weights):
            if lower is None and upper is None:
                continue
            if lower is None or upper is None:
                return f"only one of lora_A and lora_B of {module} came to be loaded"
            problem = _misfit(lower, upper, width, height, getattr(manager.modules[module], "tp_size", 1))
            if problem:
                return f"its tensors for {module} {problem}"
            landed += 2
    if landed != num_tensors:
        return f"vLLM used {landed} of its {num_tensors} tensors: some have no layer, or two of them are for one layer"
    return ""


def _pairs(layer: Any, weights: Any) -> Iterator[tuple[Any, Any, int, int | None]]:
    """Each lora_A and lora_B, with the width and the height of the layer for which they are.

    A fused layer has several places. If there are fewer tensors than places, vLLM cuts a tensor into parts, and raises
    if several cannot be cut to fit.
    """
    lowers, uppers = ([half] if not isinstance(half, list) else half for half in (weights.lora_a, weights.lora_b))
    places_a, places_b = (
        half if isinstance(half, tuple) else (half,) for half in (layer.lora_a_stacked, layer.lora_b_stacked)
    )
    heights: list[int | None] = [place.shape[-2] for place in places_b]
    if len(lowers) == 1:
        heights = [sum(place.shape[-2] for place in places_b)]
    elif len(lowers) != len(places_b):
        heights = [None] * len(lowers)
    for lower, upper, height in zip(lowers, uppers, heights, strict=True):
        yield lower, upper, places_a[0].shape[-1], height


def _misfit(lower: Any, upper: Any, width: int, height: int | None, shards: int) -> str:
    found = lower.shape[1], upper.shape[0]
    if not _covers(found[0], width, shards) or (height is not None and not _covers(found[1], height, shards)):
        return (
            f"are for a layer of {found[0]} inputs and {found[1]} outputs, the model's has {width} and {height}: made "
            "for another model"
        )
    if not _is_finite(upper):
        return (
            f"overflow when they are scaled in {upper.dtype}: train with a smaller lora_alpha, or use another --dtype"
        )
    if not _is_finite(lower):
        return f"overflow in {lower.dtype}: start workers with another --dtype"
    return ""


def _covers(size: int, place: int, shards: int) -> bool:
    """Whether a tensor of this size fits the whole layer, of which `place` is this process' share."""
    return size % place == 0 and 1 <= size // place <= shards


def _is_finite(tensor: Any) -> bool:
    return all(bool(bound.isfinite()) for bound in tensor.aminmax())


def _names(manager: Any) -> list[str]:
    """Names of all layers that an adapter may have; parts of a fused layer have their own names."""
    return [name for module in manager.modules for name in manager.packed_modules.get(module, [module])]


def _astray(astray: list[str], names: list[str]) -> str:
    others = f" (and for {len(astray) - 1} more)" if len(astray) > 1 else ""
    like = [name for name in names if name.rpartition(".")[2] == astray[0].rpartition(".")[2]]
    nearest = max(like or names, key=lambda name: _common_end(name, astray[0]), default="none")
    return (
        f"its tensors for {astray[0]}{others} have no layer in this engine that takes them: the model's layers are "
        f"named as {nearest}; train the adapter on the model that workers serve, or rename its tensors"
    )


def _common_end(first: str, second: str) -> int:
    pairs = zip(reversed(first.split(".")), reversed(second.split(".")), strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), 1000)
