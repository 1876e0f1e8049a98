"""Translate our requests for vLLM and its outputs for us. Pure: imports no vLLM, and reads only attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.schemas.wire.fields import FinishReason, VersionSpan

from ...engine import EngineInfo
from ...errors import DataError, EngineDiedError
from ...requests import Completion, GenerateRequest
from ..forbidden import check_allowed
from ..special_tokens import visible_text
from .columns import likeliest_columns, nothing_left, read
from .inside.held_tokens import OWN_PIECE
from .inside.late_stops import LATE_STOPS
from .inside.logits import NOT_FINITE
from .inside.routing import ROUTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What the worker's tokenizer makes of texts; empty without one."""

    special: Mapping[int, str] = field(default_factory=dict)
    """The tokenizer's special tokens, by id."""
    bad: Sequence[Sequence[int]] = ()
    """The request's `bad_words` as vLLM bans them."""


_NO_WORDS = Words()
_SHORT_PIECE = 4
"""With so many new tokens a completion that is followed leaves EngineCore; each such message costs Python some time."""


def sampling_fields(
    request: GenerateRequest, info: EngineInfo | None = None, *, always_logprobs: bool = False
) -> dict[str, Any]:
    """The fields for vLLM's `SamplingParams`. EOS ids are passed as stop ids, so that only they end a completion.

    `info` bounds the number of candidates. `always_logprobs`: for an engine that cannot tell in another way that
    nothing was left to sample.
    """
    config = request.config
    ends = request.stop_token_ids, request.late_stop_ids, config.stop_strings, config.stop_on_repetition
    return {
        "n": config.num_return_sequences,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "min_p": config.min_p,
        "repetition_penalty": config.repetition_penalty,
        "presence_penalty": config.presence_penalty,
        "frequency_penalty": config.frequency_penalty,
        "max_tokens": config.max_new_tokens,
        # vLLM bans the model's EOS before min_tokens, even if a job ignores EOS.
        "min_tokens": config.min_new_tokens if any(ends) else 0,
        "ignore_eos": True,
        "stop_token_ids": list(request.stop_token_ids),
        "stop": list(config.stop_strings) or None,
        "include_stop_str_in_output": config.include_stop_str_in_output,
        "detokenize": bool(config.stop_strings),
        # As in transformers, a stop string may be or overlap a special token.
        "skip_special_tokens": not config.stop_strings,
        "bad_words": list(config.bad_words) or None,
        "logit_bias": dict(config.logit_bias) or None,
        "allowed_token_ids": None if config.allowed_token_ids is None else list(config.allowed_token_ids),
        "seed": None if config.temperature == 0 else request.seed,
        "extra_args": _own_args(request) or None,
        **_candidates_wanted(config, info, always_logprobs=always_logprobs),
    }


def _own_args(request: GenerateRequest) -> dict[str, Any]:
    """What our plugin inside EngineCore is told of the request."""
    told: dict[str, Any] = {LATE_STOPS: list(request.late_stop_ids)} if request.late_stop_ids else {}
    told |= {OWN_PIECE: _SHORT_PIECE} if request.is_followed else {}
    return told | ({ROUTED: True} if request.config.routed_experts else {})


def _candidates_wanted(config: GenerationConfig, info: EngineInfo | None, *, always_logprobs: bool) -> dict[str, Any]:
    if config.label_token_ids:  # the sampled token's own come with them
        return {"logprobs": None, "logprob_token_ids": list(config.label_token_ids)}
    wanted = config.logprobs is not None or always_logprobs
    return {"logprobs": likeliest_columns(config, info) if wanted else None}


def candidate_fields(k: int) -> dict[str, Any]:
    """The fields for vLLM's `SamplingParams`: the top k of one greedy token, whose processed log-probs are raw."""
    return {"temperature": 0.0, "max_tokens": 1, "logprobs": k, "ignore_eos": True, "detokenize": False}


def aborted(output: Any) -> bool:
    """Whether any completion of a `RequestOutput` was aborted."""
    return any(completion.finish_reason == "abort" for completion in output.outputs)


def check_sampled(output: Any, config: GenerationConfig | None = None, *, by_us: bool = False) -> None:
    """Raises `DataError` if EngineCore could not sample, `EngineDiedError` if it was aborted, unless that was `by_us`.

    In the second case the engine is being shut down, and another worker will take the request.
    """
    ended = [(completion.finish_reason, completion.stop_reason) for completion in output.outputs]
    if ("error", NOT_FINITE) in ended:
        raise nothing_left(config)
    if "error" in dict(ended):
        raise DataError(ErrorCode.ENGINE_REFUSED, "config", "vLLM's engine could not prepare the request; see its log")
    if "abort" in dict(ended) and not by_us:
        raise EngineDiedError("the vLLM engine aborted a request that nobody gave up")


def completions(
    output: Any,
    request: GenerateRequest,
    spans: Sequence[tuple[tuple[VersionSpan, ...], bool]],
    words: Words = _NO_WORDS,
    info: EngineInfo | None = None,
) -> list[Completion]:
    """The n completions of a final `RequestOutput` (FINAL_ONLY, flat log-probs), in order.

    `spans` has, for each output, the version spans and whether they are exact. Raises what `check_sampled` raises, and
    `DataError` if nothing was left to sample. `info` as in `sampling_fields`. Of a request that goes on, some may be
    aborted.
    """
    if len(output.outputs) != request.config.num_return_sequences:
        raise EngineDiedError(f"vLLM gave {len(output.outputs)} of {request.config.num_return_sequences} completions")
    found = [completion for _, completion in each(output, request, spans, words, info, by_us=request.goes_on)]
    # Of several, vLLM tells of one of them, which mostly had the prompt from the others.
    return [replace(found[0], cached_tokens=_cached(output))] if len(found) == 1 else found


def _cached(output: Any) -> int | None:
    cached = getattr(output, "num_cached_tokens", None)
    return cached if type(cached) is int and cached >= 0 else None


def each(
    output: Any,
    request: GenerateRequest,
    spans: Sequence[tuple[tuple[VersionSpan, ...], bool]],
    words: Words,
    info: EngineInfo | None,
    *,
    by_us: bool,
) -> list[tuple[int, Completion]]:
    """The same for any of the n, with their numbers. Where `by_us` is false, none may be aborted."""
    check_sampled(output, request.config, by_us=by_us)
    found = sorted(zip(output.outputs, spans, strict=True), key=lambda item: item[0].index)
    return [(completion.index, _completion(completion, request, words, info, *known)) for completion, known in found]


def candidates(output: Any) -> list[tuple[int, float]]:
    """Tokens and log-probs of a greedy request's one position, likeliest first; vLLM names the sampled one twice.

    Raises what `check_sampled` raises, and `DataError` for log-probs that are NaN, which have no order.
    """
    check_sampled(output)
    flat = output.outputs[0].logprobs
    ids, logprobs = np.asarray(flat.token_ids), np.asarray(flat.logprobs)
    if np.isnan(logprobs).any():
        raise nothing_left(None)
    unique = dict(zip(ids.tolist(), logprobs.tolist(), strict=True))
    return sorted(unique.items(), key=lambda candidate: (-candidate[1], candidate[0]))


def _completion(
    completion: Any,
    request: GenerateRequest,
    words: Words,
    info: EngineInfo | None,
    spans: tuple[VersionSpan, ...],
    spans_exact: bool,
) -> Completion:
    config = request.config
    token_ids = np.asarray(completion.token_ids, np.int32)
    check_allowed(token_ids, request, words.bad)
    logprobs: dict[str, Any] = {"logprobs": None}
    if completion.logprobs is not None:
        logprobs |= read(completion.logprobs, token_ids, config, info)
    # Those apart, every reason of vLLM's means that something asked for came up: an id or a string.
    own: dict[str, FinishReason] = {"length": "length", "repetition": "repetition", "abort": "abort"}
    return Completion(
        token_ids=token_ids,
        finish_reason=own.get(completion.finish_reason, "stop"),
        stop_reason=None if completion.finish_reason == "repetition" else completion.stop_reason,
        version_spans=spans,
        spans_exact=spans_exact,
        text=_text(completion, config, words) if config.stop_strings else None,
        routed_experts=completion.routed_experts if config.routed_experts else None,
        **logprobs,
    )


def _text(completion: Any, config: GenerationConfig, words: Words) -> str:
    stop = completion.stop_reason
    kept = stop if isinstance(stop, str) and config.include_stop_str_in_output else None
    return visible_text(completion.text, completion.token_ids, words.special, kept)
