"""What is wrong with the options of a `GenerationConfig`, in one sentence that names the option."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ..errors import ConfigError, shown
from ..printable import printable
from .foreign_names import advice

_HINTS = {
    "temperature": "0 is greedy",
    "top_p": "1.0 is off",
    "top_k": "0 is off",
    "min_p": "0.0 is off",
    "repetition_penalty": "1.0 is off",
    "presence_penalty": "0.0 is off",
    "frequency_penalty": "0.0 is off",
    "early_stopping": "write True, False or 'never'",
    "logprobs": "'processed' is under the sampling distribution, 'raw' the model's own, None none",
    "seed": "None is unseeded",
}
"""Hints for the most likely mistakes."""


def config_problem(
    error: ValidationError, fields: Mapping[str, FieldInfo], defaults: Mapping[str, object]
) -> ConfigError:
    """The first of pydantic's problems, as an error that names the option and says what to write instead."""
    # An unknown name explains a missing one, so it comes first.
    first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    name = printable(str(first["loc"][0])[:100]) if first["loc"] else "config"
    given = first["input"]
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return ConfigError(name, f"unknown name; {advice(name, fields)}", given)
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return ConfigError(name, "is required", None)
    if given is None and len(first["loc"]) == 1 and not fields[name].is_required():
        return ConfigError(name, f"None says nothing: leave it out for its default {defaults[name]!r}", None)
    field = name if name == "early_stopping" else ".".join(str(part)[:100] for part in first["loc"]) or name
    if first["type"] == "value_error":  # a sentence of our own, about an option with parts
        return ConfigError(field, first["msg"].removeprefix("Value error, "), given)
    hint = f"; {_HINTS[name]}" if name in _HINTS else ""
    return ConfigError(field, f"{first['msg']}, got {shown(given)} ({type(given).__name__}){hint}", given)
