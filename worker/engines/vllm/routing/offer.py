"""Decides at the start whether an engine offers `routed_experts`, and says why where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import structlog

from rollstream.schemas.wire.routing import RoutingShape

from ....engine import ROUTING_NOT_ASKED, EngineInfo
from ..calls import Calls
from .model_shape import shape_of
from .proof import Generate, why_unproven

FLAG = "enable_return_routed_experts"
"""vLLM's argument. It is engine-wide: every request pays for it."""
_FEATURE = "routed_experts"

log = structlog.get_logger()


async def with_routing(
    info: EngineInfo, *, asked: bool, on_cpu: bool, llm: Any, calls: Calls, generate: Generate
) -> EngineInfo:
    """`info` with `routed_experts` among its features, or with what is missing. Costs nothing unless it is `asked`."""
    if not asked:
        return replace(info, missing=(*info.missing, (_FEATURE, ROUTING_NOT_ASKED)))
    shape, why = await _shape(llm, calls, on_cpu=on_cpu)
    if shape is not None:
        offers = replace(info, features=info.features | {_FEATURE}, routing=shape)
        why = await why_unproven(generate, lambda: _forget(llm, calls), shape, info)
        if not why:
            log.info("routed experts are offered", layers=shape.layers, k=shape.k, experts=shape.experts)
            return offers
    log.warning("routed experts are not offered, and jobs with them refused", why=why)
    return replace(info, missing=(*info.missing, (_FEATURE, why)))


async def _shape(llm: Any, calls: Calls, *, on_cpu: bool) -> tuple[RoutingShape | None, str]:
    """The shape, or why there is none."""
    if on_cpu:
        return None, "vLLM gives no routing on a CPU"
    config = llm.vllm_config
    if not _is_on(config):
        return None, "the model's config names no experts, or this vLLM gives no routing"
    found = await calls.utility(llm.collective_rpc("rollstream_routing"))
    layers = sorted({layer for each, _ in found for layer in each})
    if why := next((why for _, why in found if why), ""):
        return None, why
    shape = shape_of(config.model_config.hf_text_config, layers)
    return shape, "" if shape is not None else f"the model's config does not fit its {len(layers)} layers with routers"


def _is_on(config: Any) -> bool:
    """Up to 0.31 it is an option of the model, later one of outputs."""
    places = config.model_config, getattr(config, "aux_output_config", None)
    return any(getattr(place, FLAG, False) for place in places)


async def _forget(llm: Any, calls: Calls) -> object:
    return await calls.utility(llm.reset_prefix_cache())
