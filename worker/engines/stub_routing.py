"""The experts that the stub engine says its tokens went to: made up, the same for one token and version. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rollstream.schemas.wire.routing import RoutingArray, RoutingShape, rows_of

from ..engine import ROUTING_NOT_ASKED
from ..requests import Completion, GenerateRequest

SHAPE = RoutingShape(layers=4, k=2, experts=16, dense=(0,))


def offered(features: set[str], others: Mapping[str, Any], *, routed: bool) -> dict[str, Any]:
    """Fields of `EngineInfo`, `others` among them; `routed`: whether the worker was asked to offer routing."""
    missing = others.get("missing", ())
    if not routed:
        missing = *missing, ("routed_experts", ROUTING_NOT_ASKED)
        return {**others, "features": frozenset(features), "missing": missing}
    return {**others, "features": frozenset({*features, "routed_experts"}), "routing": SHAPE}


def routing(request: GenerateRequest, completion: Completion) -> RoutingArray:
    """(P + L - 1, layers, k): row P - 1 + j of the version that sampled token j, those before of the first one's."""
    rows = rows_of(len(request.prompt), len(completion.token_ids))
    tokens = np.array([*request.prompt, *completion.token_ids.tolist()], np.int64)[:rows]
    versions = np.repeat(*np.array(completion.version_spans, np.int64).reshape(-1, 2).T)
    of_rows = np.concatenate([np.full(rows - len(versions), versions[:1].sum()), versions]) if rows else versions
    first = tokens[:, None] * 31 + of_rows[:, None] * 7 + np.arange(SHAPE.layers)
    found = (first[..., None] + 5 * np.arange(SHAPE.k)) % SHAPE.experts
    found[:, SHAPE.dense] = 0
    told: RoutingArray = found.astype(SHAPE.dtype)
    return told
