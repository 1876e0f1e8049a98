"""Whether what vLLM calls the routing of tokens can be that. Some kernels never ask a router, and rows then stay zero.

Rows that were sampled one by one, among those of other requests, are compared with those of the same text as a prompt:
each token goes to the same experts, but for those that were about as good. A row that belongs to another token, or to
another layer, does not agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import numpy as np

from rollstream.schemas import GenerationConfig
from rollstream.schemas.wire.routing import RoutingArray, RoutingShape, rows_of, why_not_chosen

from ....engine import EngineInfo
from ....errors import DataError
from ....requests import Completion, GenerateRequest

LEAST_AGREEMENT = 0.75
"""The share of chosen experts that must be the same. Numbers that are rounded otherwise change a few of them."""

_PROMPTS, _SAMPLED = (40, 23, 7), 24
_SAMPLES = 2

Generate = Callable[[GenerateRequest], Awaitable[list[Completion]]]


async def why_unproven(
    generate: Generate, forget: Callable[[], Awaitable[object]], shape: RoutingShape, info: EngineInfo
) -> str:
    """Why the engine's routing is not to be trusted; empty if it is.

    `forget`: makes the engine forget what it computed of prompts, so that it computes them again.
    """
    try:
        prompts = list(_prompts(info))
        sampled = await asyncio.gather(*(generate(_request(*one, samples=_SAMPLES)) for one in prompts))
        pairs = [(prompt, one) for (_, prompt, _), each in zip(prompts, sampled, strict=True) for one in each]
        await forget()
        texts = [[*prompt, *one.token_ids.tolist()[:-1]] for prompt, one in pairs]
        again = await asyncio.gather(*(generate(_request(f"{n}-again", text, 1)) for n, text in enumerate(texts)))
    except DataError as error:
        return error.message
    found = list[RoutingArray]()
    for text, (_, one), (whole,) in zip(texts, pairs, again, strict=True):
        first, second = one.routed_experts, whole.routed_experts
        if first is None or second is None:
            return "vLLM gave none"
        problem = _why_unfit(first, len(text), shape) or _why_unfit(second, rows_of(len(text), 1), shape)
        if problem or (problem := _disagreement(first, second, shape)):
            return problem
        found += first, second
    if shape.experts > shape.k and all(_is_constant(each, shape) for each in found):
        return "all tokens of a text went to the same experts in every layer"
    return ""


def _prompts(info: EngineInfo) -> Iterable[tuple[str, list[int], int]]:
    """Name, ids and how many tokens to sample: different ids, so that layers see different tokens, and no images."""
    random, max_len = np.random.default_rng(0), info.max_model_len
    ids = np.setdiff1d(np.arange(info.vocab_size), list(info.image_ids))
    for length in _PROMPTS:
        prompt = min(length, max(1, max_len // 2))
        yield f"routing-{length}", random.choice(ids, prompt).tolist(), min(_SAMPLED, max_len - prompt)


def _request(name: str, prompt: list[int], tokens: int, samples: int = 1) -> GenerateRequest:
    config = GenerationConfig(
        max_new_tokens=tokens, num_return_sequences=samples, logprobs=None, ignore_eos=True, routed_experts=True
    )
    return GenerateRequest(
        request_id=f"warm-up-{name}", prompt=prompt, config=config, stop_token_ids=(), seed=None, adapter=None
    )


def _why_unfit(routing: RoutingArray, rows: int, shape: RoutingShape) -> str:
    if routing.shape != (expected := (rows, shape.layers, shape.k)):
        return f"vLLM gave routing of shape {routing.shape}, not {expected}"
    if problem := why_not_chosen(routing, shape):
        return f"vLLM did not see what its kernels chose ({problem})"
    return ""


def _mixed(routing: RoutingArray, shape: RoutingShape) -> RoutingArray:
    mixed: Any = np.delete(routing, shape.dense, axis=1)
    told: RoutingArray = mixed
    return told


def _disagreement(first: RoutingArray, second: RoutingArray, shape: RoutingShape) -> str:
    one, other = _mixed(first, shape), _mixed(second, shape)
    same = float((one[..., :, None] == other[..., None, :]).any(-1).mean())
    if same >= LEAST_AGREEMENT:
        return ""
    return f"tokens that were sampled went to other experts than the same tokens in a prompt: {same:.0%} are the same"


def _is_constant(routing: RoutingArray, shape: RoutingShape) -> bool:
    mixed = np.sort(_mixed(routing, shape), axis=-1)
    return bool((mixed == mixed[:1]).all())
