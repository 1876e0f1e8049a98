"""What it takes to go on with a completion that another request began, in this worker or in one before it. Pure.

A continued sample is a request of its own: its prompt is the prompt and the tokens so far, its limits are what is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GenerationConfig
from rollstream.schemas.wire.fields import VersionSpan

from ..requests import Completion, GenerateRequest
from .seeds import rest_seed

EXACT = (
    "max_new_tokens", "min_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
    "num_return_sequences", "length_penalty", "early_stopping", "eos_token_id", "stop_token_ids",
    "include_stop_str_in_output", "ignore_eos", "logit_bias", "allowed_token_ids", "seed", "logprobs", "top_logprobs",
    "sampling_support", "label_token_ids", "first_k",
)  # fmt: skip
"""Options under which a rest is sampled as it would have been without the break: what they ask of a token follows from
the text before it, whether that was the prompt or sampled, and from how many tokens are left."""

BROKEN = (
    "presence_penalty", "frequency_penalty", "num_beams", "stop_strings", "bad_words", "guided", "thinking_budget",
    "stop_on_repetition", "routed_experts",
)  # fmt: skip
"""Options that look at what *this* request sampled, which a rest does not know: with one of them in use, a sample is
started again. (The repetition penalty counts the prompt's tokens too, so it is exact.) The routing of what a broken
request sampled is lost with it."""

T = TypeVar("T", bound=np.generic)


def continues(config: GenerationConfig) -> bool:
    """Whether a completion that was begun may be continued by another request, exactly."""
    return not config.changed(BROKEN)


def rest_of(whole: GenerateRequest, request_id: str, sample: int, so_far: Completion | None) -> GenerateRequest:
    """The request for one sample of `whole`, after what it has so far, or for all of it."""
    done = 0 if so_far is None else len(so_far.token_ids)
    config = whole.config
    left = {
        "num_return_sequences": 1,
        "first_k": None,
        "max_new_tokens": config.max_new_tokens - done,
        "min_new_tokens": max(0, config.min_new_tokens - done),
    }
    seed = None if whole.seed is None else whole.seed + sample
    return replace(
        whole,
        request_id=request_id,
        prompt=whole.prompt if so_far is None else [*whole.prompt, *so_far.token_ids.tolist()],
        config=config.model_copy(update=left),
        seed=rest_seed(seed, done) if seed is not None and done else seed,
        first_sample=sample,
    )


def ends_within(whole: GenerateRequest, token_ids: NDArray[np.int32]) -> bool:
    """Whether these tokens hold one that ends a completion, so that nothing may come after them."""
    late = token_ids[whole.config.min_new_tokens :]
    return bool(np.isin(late, [*whole.stop_token_ids, *whole.late_stop_ids]).any())


def joined(before: Completion | None, after: Completion) -> Completion:
    """One completion of two pieces; how it ended is how the later one did."""
    if before is None:
        return after
    return replace(
        after,
        token_ids=np.concatenate((before.token_ids, after.token_ids)),
        logprobs=_both(before.logprobs, after.logprobs),
        version_spans=joined_spans((*before.version_spans, *after.version_spans)),
        spans_exact=before.spans_exact and after.spans_exact,
        top_token_ids=_both(before.top_token_ids, after.top_token_ids),
        top_logprobs=_both(before.top_logprobs, after.top_logprobs),
        label_logprobs=_both(before.label_logprobs, after.label_logprobs),
        support_ids=_both(before.support_ids, after.support_ids),
        support_lengths=_both(before.support_lengths, after.support_lengths),
        forced=_forced(before, after),
        routed_experts=None,
        cached_tokens=before.cached_tokens,
    )


def first_of(completion: Completion, length: int) -> Completion:
    """Its first `length` tokens, with all that belongs to them."""
    if length >= len(completion.token_ids):
        return completion
    support = completion.support_lengths
    ids = 0 if support is None else int(support[:length].sum())
    return replace(
        completion,
        token_ids=completion.token_ids[:length],
        logprobs=_first(completion.logprobs, length),
        version_spans=_first_spans(completion.version_spans, length),
        top_token_ids=_first(completion.top_token_ids, length),
        top_logprobs=_first(completion.top_logprobs, length),
        label_logprobs=_first(completion.label_logprobs, length),
        support_ids=_first(completion.support_ids, ids),
        support_lengths=_first(support, length),
        forced=_first(completion.forced, length),
    )


def joined_spans(spans: Iterable[VersionSpan]) -> tuple[VersionSpan, ...]:
    """The spans without empty ones, neighbours of one version as one."""
    found: list[VersionSpan] = []
    for version, tokens in spans:
        if found and found[-1][0] == version:
            found[-1] = version, found[-1][1] + tokens
        elif tokens:
            found.append((version, tokens))
    return tuple(found)


def _first_spans(spans: Iterable[VersionSpan], length: int) -> tuple[VersionSpan, ...]:
    found: list[VersionSpan] = []
    for version, tokens in spans:
        found.append((version, min(tokens, length)))
        length -= found[-1][1]
    return joined_spans(found)


def _first(values: NDArray[T] | None, length: int) -> NDArray[T] | None:
    return None if values is None else values[:length]


def _both(before: NDArray[T] | None, after: NDArray[T] | None) -> NDArray[T] | None:
    return None if before is None or after is None else np.concatenate((before, after))


def _forced(before: Completion, after: Completion) -> NDArray[Any] | None:
    if before.forced is None and after.forced is None:
        return None
    pieces = (np.zeros(len(c.token_ids), np.bool_) if c.forced is None else c.forced for c in (before, after))
    return np.concatenate(tuple(pieces))
