"""Which ids a plain computation leaves to sample from, and whether an engine's sampling supports are these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rollstream.worker.requests import Completion

from .engine_requests import ATOL
from .transformers_reference import Reference

SHAPES: dict[str, dict[str, Any]] = {
    "top_k": {"top_k": 20},
    "top_k and top_p": {"top_k": 50, "top_p": 0.9},
    "top_k and min_p": {"top_k": 128, "min_p": 0.2, "temperature": 1.3},
    "penalties and bias": {
        "top_k": 30, "top_p": 0.8, "repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.3,
        "logit_bias": {20: 3.0, 21: -100.0, 22: 2.5},
    },
    "T=0.7 and allowed ids": {"top_k": 8, "temperature": 0.7, "allowed_token_ids": list(range(40, 60))},
}  # fmt: skip

_NEAR = 2 * ATOL
"""An id and its limit may each be off by half of it: so near a limit it may be kept by one computation only."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many tokens have the plain computation's support, and one that no rounding explains."""

    tokens: int
    same: int
    other: int
    ids: int


def agreement(
    reference: Reference, prompt: list[int], completions: Sequence[Completion], shape: dict[str, Any]
) -> Agreement:
    same = other = ids = tokens = 0
    for one in completions:
        assert one.support_ids is not None
        assert one.support_lengths is not None
        logits = _shaped(reference.logits(prompt, one.token_ids.tolist()), prompt, one.token_ids.tolist(), shape)
        supports = np.split(one.support_ids, np.cumsum(one.support_lengths)[:-1])
        for row, support, token in zip(logits, supports, one.token_ids.tolist(), strict=True):
            kept, surely, perhaps = _kept(row, shape)
            found = set(support.tolist())
            assert token in found
            assert len(found) == len(support)
            in_order = bool((row[support.tolist()].diff() <= _NEAR).all())
            same += found == kept and in_order
            other += not (in_order and surely <= found <= perhaps)
        tokens, ids = tokens + len(one.token_ids), ids + len(one.support_ids)
    return Agreement(tokens=tokens, same=same, other=other, ids=ids)


def _shaped(logits: torch.Tensor, prompt: list[int], tokens: list[int], shape: dict[str, Any]) -> torch.Tensor:
    """(L, vocab): bias, allowed ids, penalties and temperature, as vLLM orders them."""
    logits = logits.clone()
    for token, bias in shape.get("logit_bias", {}).items():
        logits[:, token] += bias
    if (allowed := shape.get("allowed_token_ids")) is not None:
        banned = torch.ones(logits.shape[1], dtype=torch.bool)
        banned[allowed] = False
        logits[:, banned] = -torch.inf
    rows = []
    for at, row in enumerate(logits):
        counts = torch.bincount(torch.tensor(tokens[:at], dtype=torch.long), minlength=len(row))
        seen = counts > 0
        seen[prompt] = True
        penalty = torch.where(seen, shape.get("repetition_penalty", 1.0), 1.0)
        less = shape.get("frequency_penalty", 0.0) * counts + shape.get("presence_penalty", 0.0) * (counts > 0)
        rows.append(torch.where(row > 0, row / penalty, row * penalty) - less)
    shaped: torch.Tensor = torch.stack(rows) / shape.get("temperature", 1.0)
    return shaped


def _kept(row: torch.Tensor, shape: dict[str, Any]) -> tuple[set[int], set[int], set[int]]:
    """Ids that are left; those among them that no rounding removes; and those that rounding may leave."""
    floor = row.max() + np.log(shape["min_p"]) if "min_p" in shape else row.new_tensor(-1e9)
    rest = row.masked_fill(row < floor, -torch.inf)
    ordered = torch.cat([rest.sort(descending=True).values, rest.new_tensor([-torch.inf])])
    last, following = ordered[shape["top_k"] - 1], ordered[shape["top_k"]]
    rest = rest.masked_fill(rest < last, -torch.inf)
    ahead = _mass_ahead(rest)
    p = shape.get("top_p", 2.0)
    there = row > -torch.inf
    kept = (rest > -torch.inf) & (ahead < p)
    surely = kept & (row > floor + _NEAR) & (row > following + _NEAR) & (ahead < p - _NEAR)
    perhaps = there & (row > floor - _NEAR) & (row > last - _NEAR) & (ahead < p + _NEAR)
    kept_ids, sure_ids, possible = (set(mask.nonzero()[:, 0].tolist()) for mask in (kept, surely, perhaps))
    return kept_ids, sure_ids, possible


def _mass_ahead(logits: torch.Tensor) -> torch.Tensor:
    """For each id the probability of all ids that are likelier."""
    order = logits.sort(descending=True).indices
    probabilities = logits.softmax(-1)[order]
    ahead = torch.empty_like(logits)
    ahead[order] = probabilities.cumsum(-1) - probabilities
    return ahead
