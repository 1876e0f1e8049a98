"""The arguments of a call, checked before anything is queued. What is ambiguous is refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple, Self

from rollstream.schemas import ConfigError, GenerationConfig
from rollstream.schemas.errors import shown
from rollstream.schemas.plain_values import plain

from ..errors import ArgumentError, PromptsError

_INT64 = 2**63


def number(value: Any) -> Any:
    """A number of numpy or torch, or a `timedelta`, as a Python number; anything else unchanged, for a later check."""
    return value.total_seconds() if isinstance(value, timedelta) else plain(value)


class Reading(NamedTuple):
    """How the results of a batch are read: the arguments of `BatchHandle.result`."""

    timeout: float | None
    progress: bool
    pad_token_id: int
    pad_to_max_new_tokens: bool

    @classmethod
    def of(cls, timeout: object, progress: object, pad_token_id: object, pad_to_max_new_tokens: object) -> Self:
        """Check the arguments. Raises `ArgumentError`."""
        return cls(
            _seconds("timeout", number(timeout)),
            _flag("progress", plain(progress)),
            _pad_token_id(plain(pad_token_id)),
            _flag("pad_to_max_new_tokens", plain(pad_to_max_new_tokens)),
        )

    @classmethod
    def of_wait(cls, timeout: object, progress: object) -> Self:
        """The same for calls that pad nothing."""
        return cls.of(timeout, progress, 0, False)


def reconnect_seconds(value: object) -> float:
    """Check a client's `reconnect_s`. Raises `ArgumentError`."""
    seconds = number(value)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ArgumentError("reconnect_s", value, "give seconds from 0 on; math.inf waits for ever")
    return float(seconds)


def _seconds(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ArgumentError(name, value, "give seconds as a number, or None to wait without a limit")
    return None if value == math.inf else min(float(value), 1e9)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ArgumentError(name, value, "give True or False")
    return value


def _pad_token_id(value: object) -> int:
    if value is None:
        hint = "the tokenizer has none: give any id, such as its eos_token_id; masks follow from lengths, not from it"
        raise ArgumentError("pad_token_id", value, hint)
    if type(value) is not int or not -_INT64 <= value < _INT64:
        raise ArgumentError("pad_token_id", value, "give an integer, such as the tokenizer's pad_token_id")
    return value


def check_config(config: object, attention_mask: object) -> GenerationConfig:
    """Return `config`. Raises `ConfigError` or `PromptsError`, which tell what was given instead and what to write."""
    if isinstance(attention_mask, GenerationConfig):
        raise PromptsError("attention_mask", "got the GenerationConfig: write config=..., or None before it")
    if not isinstance(config, GenerationConfig):
        raise ConfigError("config", f"is required as a GenerationConfig, got {_what(config)}", config)
    _check_beside(config)
    return config


def _check_beside(config: GenerationConfig) -> None:
    """What every worker would refuse. Not a rule of the config itself: stored jobs that break it stay readable."""
    if config.thinking_budget is not None and config.guided is not None:
        problem = "a forced end of thinking is no part of the text that `guided` allows: use one of both"
        raise ConfigError("thinking_budget", problem, config.thinking_budget)
    if config.label_token_ids and (others := config.changed(("top_logprobs", "sampling_support"))):
        problem = f"beside {others[0]}: an engine gives one of them only; use two batches"
        raise ConfigError("label_token_ids", problem, config.label_token_ids)


def _what(config: object) -> str:
    kind = type(config)
    if isinstance(config, type):
        return f"the class {config.__name__}: call it, such as GenerationConfig(max_new_tokens=64)"
    if config is None:
        return "None: write config=GenerationConfig(max_new_tokens=64)"
    if isinstance(config, Mapping):
        return f"a {kind.__name__}: write GenerationConfig(**config), which checks its names"
    if (library := kind.__module__.partition(".")[0]) in ("transformers", "vllm", "trl", "openai"):
        remedy = "make one by `from rollstream import GenerationConfig`, and name what you want of it"
        return f"the {kind.__name__} of {library}, whose names and defaults differ: {remedy}"
    if hasattr(config, "shape"):
        return f"a {kind.__name__}: the order is input_ids, attention_mask, config"
    return f"{shown(config)} ({kind.__name__}): write config=GenerationConfig(max_new_tokens=64)"
