"""A generation config from the command line: a JSON file, then `--set`, then `--max-new-tokens`; later ones win."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rollstream.schemas import ConfigError, GenerationConfig


def read_config(file: Path | None, assignments: Iterable[str], max_new_tokens: int | None) -> GenerationConfig:
    """Raises `ConfigError` for a value that is no JSON or out of bounds, and for an unknown name."""
    values = {} if file is None else _of_file(file)
    values |= dict(map(_assignment, assignments))
    if max_new_tokens is not None:
        values["max_new_tokens"] = max_new_tokens
    if isinstance(values.get("logit_bias"), Mapping):
        values["logit_bias"] = [(_token_id(key), bias) for key, bias in values["logit_bias"].items()]
    return GenerationConfig(**values)


def _of_file(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ConfigError("--config", f"{file}: nested too deeply") from None
    except (ValueError, OSError) as error:
        raise ConfigError("--config", f"{file}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError("--config", f"{file}: expected an object, such as {{'max_new_tokens': 64}}")
    return values


def _assignment(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigError("--set", f"{text!r}: write name=value, such as temperature=0.7", text)
    try:
        return name.strip().replace("-", "_"), json.loads(value)
    except RecursionError:
        raise ConfigError(name, "nested too deeply") from None
    except ValueError:
        hint = f"the value is no JSON; for a text write --set '{name}=\"{value}\"'"
        raise ConfigError(name, hint, value) from None


def _token_id(key: str) -> int | str:
    """JSON keys are strings, token ids integers. An id has at most 10 digits; `int` would refuse thousands of them."""
    return int(key) if key.isascii() and key.isdigit() and len(key) <= 10 else key
