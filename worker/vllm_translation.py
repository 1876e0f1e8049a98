"""Requests into vLLM's words and its outputs into ours. Pure: imports no vLLM, whose outputs are plain attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from schemas import ErrorCode, GenerationConfig
from schemas.messages import FinishReason, VersionSpan
from worker.engine import Completion, GenerateRequest
from worker.errors import DataError, EngineDiedError


def sampling_fields(request: GenerateRequest) -> dict[str, Any]:
    """For vLLM's `SamplingParams`. EOS ids go as stop ids, so that vLLM's own idea of EOS never ends a completion."""
    config = request.config
    may_stop = bool(request.stop_token_ids or config.stop_strings)
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
        # vLLM bans the model's EOS before min_tokens, also where a job ignores it.
        "min_tokens": config.min_new_tokens if may_stop else 0,
        "ignore_eos": True,
        "stop_token_ids": list(request.stop_token_ids),
        "stop": list(config.stop_strings) or None,
        "include_stop_str_in_output": config.include_stop_str_in_output,
        "detokenize": bool(config.stop_strings),
        "bad_words": list(config.bad_words) or None,
        "logit_bias": dict(config.logit_bias) or None,
        "allowed_token_ids": None if config.allowed_token_ids is None else list(config.allowed_token_ids),
        "seed": None if config.temperature == 0 else request.seed,
        "logprobs": None if config.logprobs is None else 0,
    }


def candidate_fields(k: int) -> dict[str, Any]:
    """For vLLM's `SamplingParams`: the top k of one greedy token, where processed log-probs are the raw ones."""
    return {"temperature": 0.0, "max_tokens": 1, "logprobs": k, "ignore_eos": True, "detokenize": False}


def aborted(output: Any) -> bool:
    """Whether any completion of a `RequestOutput` was aborted."""
    return any(completion.finish_reason == "abort" for completion in output.outputs)


def completions(
    output: Any, config: GenerationConfig, spans: Sequence[tuple[tuple[VersionSpan, ...], bool]]
) -> list[Completion]:
    """The n completions of a final `RequestOutput` (FINAL_ONLY, flat log-probs), in order.

    `spans` has for each of its outputs the version spans and whether they are exact.

    Raises `DataError` for a request that EngineCore could not prepare, `EngineDiedError` for one that nobody here
    aborted: then the engine is being shut down, and the request belongs to another worker.
    """
    found = sorted(zip(output.outputs, spans, strict=True), key=lambda item: item[0].index)
    reasons = {completion.finish_reason for completion, _ in found}
    if "error" in reasons:
        raise DataError(ErrorCode.ENGINE_REFUSED, "config", "vLLM's engine could not prepare the request; see its log")
    if "abort" in reasons:
        raise EngineDiedError("the vLLM engine aborted a request that nobody gave up")
    if len(found) != config.num_return_sequences:
        raise EngineDiedError(f"vLLM gave {len(found)} of {config.num_return_sequences} completions")
    return [_completion(completion, config, *known) for completion, known in found]


def candidates(output: Any) -> list[tuple[int, float]]:
    """Tokens and log-probs of a greedy request's one position, likeliest first; vLLM names the sampled one twice."""
    flat = output.outputs[0].logprobs
    unique = dict(zip(flat.token_ids, flat.logprobs, strict=True))
    return sorted(unique.items(), key=lambda candidate: (-candidate[1], candidate[0]))


def _completion(
    completion: Any, config: GenerationConfig, spans: tuple[VersionSpan, ...], spans_exact: bool
) -> Completion:
    token_ids = np.asarray(completion.token_ids, np.int32)
    logprobs = None if config.logprobs is None else np.asarray(completion.logprobs.logprobs, np.float32)
    if logprobs is not None and not np.isfinite(logprobs).all():
        problem = (
            "a sampled token has no finite log-prob: the config left nothing to sample from, or the weights are bad"
        )
        raise DataError(ErrorCode.ENGINE_REFUSED, "config", problem)
    # "length" apart, every reason of vLLM's means that something asked for came up: an id, a string, a repetition.
    reason: FinishReason = "length" if completion.finish_reason == "length" else "stop"
    return Completion(
        token_ids=token_ids,
        logprobs=logprobs,
        finish_reason=reason,
        stop_reason=completion.stop_reason,
        version_spans=spans,
        spans_exact=spans_exact,
        text=completion.text if config.stop_strings else None,
    )
