"""Refuses what could kill, hang or silently mislead a vLLM engine. Pure checks before the engine."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.schemas.generation.generation_config import OFFERED

from ..engine import EngineInfo
from ..errors import DataError


def stop_ids(config: GenerationConfig, info: EngineInfo) -> tuple[int, ...]:
    """Ids that end a completion and are banned before `min_new_tokens`, sorted: EOS ids (unless ignored) and stop ids.

    The EOS ids are the config's, else the model's; the tokenizer's too if nothing is banned, see `late_stop_ids`.
    """
    eos = info.eos_token_ids if config.eos_token_id is None else config.eos_token_id
    spoken = () if config.min_new_tokens else _spoken(config, info)
    # Where a guide ends, the engine gives the tokenizer's EOS: if that ended nothing, free text would follow.
    guide_end = () if config.guided is None else info.guide_end_ids
    return tuple(sorted({*config.stop_token_ids, *(() if config.ignore_eos else eos), *spoken, *guide_end}))


def late_stop_ids(config: GenerationConfig, info: EngineInfo) -> tuple[int, ...]:
    """The tokenizer's EOS under `min_new_tokens`, which as in transformers bans only the model's EOS."""
    return _spoken(config, info) if config.min_new_tokens else ()


def _spoken(config: GenerationConfig, info: EngineInfo) -> tuple[int, ...]:
    if config.ignore_eos or config.eos_token_id is not None or config.guided is not None:
        return ()
    return tuple(token for token in info.spoken_eos_ids if token not in config.stop_token_ids)


def check_config(config: GenerationConfig, info: EngineInfo) -> None:
    """Raises `DataError`, which names the field, if this engine cannot serve `config`."""
    _check_tokenizer(config, info)
    _check_features(config, info)
    _check_ids("eos_token_id", config.eos_token_id or (), info)
    _check_ids("stop_token_ids", config.stop_token_ids, info)
    _check_ids("logit_bias", config.logit_bias, info)
    _check_ids("allowed_token_ids", config.allowed_token_ids or (), info)
    _check_ids("label_token_ids", config.label_token_ids, info)
    _check_numbers(config, info)
    _check_something_is_left(config, info)
    _check_thinking(config, info)
    _check_beams(config, info)
    _check_flavour(config, info)
    _check_candidates(config, info)


def check_prompt(prompt: NDArray[np.int32], config: GenerationConfig, info: EngineInfo) -> None:
    """Raises `DataError` if nothing can be generated from `prompt` (int32, (prompt_len,)) under `config`."""
    if prompt.size == 0:
        problem = "the prompt has no tokens (its attention mask is all zero): submit at least one"
        raise DataError(ErrorCode.EMPTY_PROMPT, "prompt", problem)
    check_vocabulary("prompt", prompt, info)
    if prompt.size + config.max_new_tokens > info.max_model_len:
        problem = (
            f"{prompt.size} prompt tokens + max_new_tokens={config.max_new_tokens} exceed the worker's "
            f"max_model_len={info.max_model_len}: shorten either, or start the worker with a larger --max-model-len"
        )
        raise DataError(ErrorCode.TOO_LONG, "prompt", problem)


def check_vocabulary(field: str, ids: NDArray[np.int32], info: EngineInfo) -> None:
    """Raises `DataError` for the first of `ids` (int32, (length,)) that is not the model's."""
    outside = np.flatnonzero((ids < 0) | (ids >= info.vocab_size))
    if outside.size:
        where = int(outside[0])
        problem = (
            f"id {ids[where]} at position {where} is outside the model's vocabulary of {info.vocab_size} ids: "
            "tokenise with the model's own tokenizer"
        )
        raise DataError(ErrorCode.TOKEN_OUT_OF_VOCABULARY, field, problem)


def _check_features(config: GenerationConfig, info: EngineInfo) -> None:
    for name in config.changed(OFFERED):
        if name not in info.features:
            why = dict(info.missing).get(name)
            problem = f"{name}: this worker's engine ({info.runs_on or 'of an unknown release'}) does not offer it"
            problem += f": {why}" if why else ""
            raise DataError(ErrorCode.UNSUPPORTED, name, problem)


def _check_ids(field: str, ids: Iterable[int], info: EngineInfo) -> None:
    outside = next((token for token in ids if not 0 <= token < info.vocab_size), None)
    if outside is not None:
        problem = f"{field}: id {outside} is outside the model's vocabulary of {info.vocab_size} ids"
        raise DataError(ErrorCode.TOKEN_OUT_OF_VOCABULARY, field, problem)


def _check_numbers(config: GenerationConfig, info: EngineInfo) -> None:
    """Some of vLLM's runners have tables of a fixed size, and end if a request needs a larger one."""
    allowed = len(config.allowed_token_ids or ())
    if info.max_allowed_ids is not None and allowed > info.max_allowed_ids:
        problem = (
            f"{allowed} ids are more than the {info.max_allowed_ids} that the worker's engine can tell from others"
        )
        raise DataError(ErrorCode.INVALID_CONFIG, "allowed_token_ids", problem)
    banned = len(stop_ids(config, info)) if config.min_new_tokens else 0
    if info.max_banned_stops is not None and banned > info.max_banned_stops:
        problem = (
            f"{banned} EOS and stop ids are more than the {info.max_banned_stops} that the worker's engine can ban "
            "before min_new_tokens: use fewer, or drop min_new_tokens"
        )
        raise DataError(ErrorCode.INVALID_CONFIG, "min_new_tokens", problem)


def _check_something_is_left(config: GenerationConfig, info: EngineInfo) -> None:
    """Before `min_new_tokens` stop ids are banned: vLLM samples garbage if no other id is allowed."""
    if (
        config.min_new_tokens
        and config.allowed_token_ids
        and set(config.allowed_token_ids) <= set(stop_ids(config, info))
    ):
        problem = (
            "every allowed id ends a completion, which min_new_tokens forbids: allow another, or drop min_new_tokens"
        )
        raise DataError(ErrorCode.INVALID_CONFIG, "allowed_token_ids", problem)


def _check_tokenizer(config: GenerationConfig, info: EngineInfo) -> None:
    for field in ("stop_strings", "bad_words", "guided"):
        if getattr(config, field) and not info.has_tokenizer:
            problem = f"{field}: the worker has no tokenizer; start it with --tokenizer, or use token ids"
            raise DataError(ErrorCode.NEEDS_TOKENIZER, field, problem)


def _check_thinking(config: GenerationConfig, info: EngineInfo) -> None:
    """A forced end must be possible wherever it may come: else nothing would be left to sample there."""
    if config.thinking_budget is None:
        return
    end = None if info.thinking_marks is None else info.thinking_marks[1]
    problem = ""
    if config.guided is not None:
        problem = "a forced end of thinking is no part of the text that `guided` allows: use one of both"
    elif end is not None and config.allowed_token_ids is not None and end not in config.allowed_token_ids:
        problem = f"allowed_token_ids has not {end}, the end of thinking that is forced: allow it"
    elif config.min_new_tokens and end in stop_ids(config, info):
        problem = (
            f"the end of thinking, {end}, ends a completion too, which min_new_tokens forbids: take it from the stop "
            "ids, or drop min_new_tokens"
        )
    if problem:
        raise DataError(ErrorCode.INVALID_CONFIG, "thinking_budget", f"thinking_budget: {problem}")


def _check_beams(config: GenerationConfig, info: EngineInfo) -> None:
    """A step of beam search asks for `num_beams` live tokens and every stop id (see `worker.jobs.beam_search`)."""
    if config.num_beams == 1:
        return
    ends = len(stop_ids(config, info)) + len(late_stop_ids(config, info))
    if config.num_beams + ends > info.max_logprobs:
        problem = (
            f"num_beams={config.num_beams} and {ends} EOS and stop ids need more than the {info.max_logprobs} "
            "candidates that the worker's engine gives a step: use fewer of either"
        )
        raise DataError(ErrorCode.INVALID_CONFIG, "num_beams", problem)
    if config.num_beams + ends > info.vocab_size:
        problem = f"num_beams={config.num_beams} is more than a vocabulary of {info.vocab_size} ids can fill"
        raise DataError(ErrorCode.INVALID_CONFIG, "num_beams", problem)


def _check_flavour(config: GenerationConfig, info: EngineInfo) -> None:
    if config.logprobs in (None, info.logprobs_flavour) or config.processed_equals_raw:
        return
    problem = (
        f"logprobs={config.logprobs!r} is asked for, the worker's engine gives {info.logprobs_flavour!r}: start the "
        f"worker with --logprobs-mode {config.logprobs}, or ask for {info.logprobs_flavour!r}"
    )
    raise DataError(ErrorCode.INVALID_CONFIG, "logprobs", problem)


def _check_candidates(config: GenerationConfig, info: EngineInfo) -> None:
    """More candidates than ids would kill vLLM. One more than `top_k` shows that no others were left."""
    if config.top_logprobs > min(info.max_logprobs, info.vocab_size):
        problem = (
            f"top_logprobs={config.top_logprobs} is more than the worker's engine gives: {info.max_logprobs} at most, "
            f"of a vocabulary of {info.vocab_size} ids"
        )
        raise DataError(ErrorCode.INVALID_CONFIG, "top_logprobs", problem)
    if config.label_token_ids and (others := config.changed(("top_logprobs", "sampling_support"))):
        problem = f"label_token_ids beside {others[0]}: the worker's engine gives one of them only: use two batches"
        raise DataError(ErrorCode.INVALID_CONFIG, "label_token_ids", problem)
    if config.sampling_support and info.max_logprobs < min(config.top_k + 1, info.vocab_size):
        problem = (
            f"sampling_support with top_k={config.top_k} needs {config.top_k + 1} candidates a token, and the worker's "
            f"engine gives {info.max_logprobs}: use a smaller top_k"
        )
        raise DataError(ErrorCode.INVALID_CONFIG, "sampling_support", problem)
