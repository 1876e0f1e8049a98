"""How completions are sampled: OpenAI's and vLLM's names for the fields of a `GenerationConfig`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rollstream.schemas import ConfigError, GenerationConfig
from rollstream.schemas.errors import shown
from rollstream.schemas.generation.generation_parts import Guided

from ..errors import ApiError, bad
from ..words import THEIRS, in_words
from .parameters import Parameters

_SAME = (
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "bad_words", "allowed_token_ids",
)  # fmt: skip
"""Parameters that mean what our fields of these names mean."""
_RENAMED = {"n": "num_return_sequences", "stop": "stop_strings", "min_tokens": "min_new_tokens"}
MOST_LOGPROBS = 20
_LONGEST_ID = 10
_WAYS = {"json": "json_schema", "regex": "regex", "choice": "choice", "grammar": "grammar"}
"""vLLM's names for what an answer must match, and ours."""

NOT_IN_PARTS = {
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop_strings": "stop",
    "bad_words": "bad_words",
    "guided": "response_format",
}
"""Options with which nothing is kept of a running completion, by our names, and what OpenAI calls them."""


def config_of(
    asked: Parameters,
    *,
    most: MostTokens,
    logprobs: int | None,
    more_stops: Iterable[int] = (),
    forced: Guided | None = None,
) -> GenerationConfig:
    """The config that the parameters ask for. `more_stops`: ids that end a completion beside those that are asked for;
    `forced`: what `tool_choice` makes of the reply.

    Raises `ApiError`, which names the parameter as the client wrote it.
    """
    options: dict[str, Any] = {name: asked.take(name) for name in _SAME}
    options |= {ours: asked.take(theirs) for theirs, ours in _RENAMED.items()}
    options |= {"logit_bias": _bias(asked.mapping("logit_bias")), "guided": _one_guide(_guide(asked), forced)}
    given = {name: value for name, value in options.items() if value is not None}
    if more_stops:
        given["stop_token_ids"] = _with_stops(given.get("stop_token_ids", []), more_stops)
    _check_greedy(given)
    try:
        return GenerationConfig(**given, max_new_tokens=most.tokens, top_logprobs=logprobs or 0)
    except ConfigError as error:
        field = re.split(r"[.\[]", error.field)[0]
        words = {"max_new_tokens": most.name}
        problem = in_words(f"{error.problem}, got {shown(error.value)}", words)
        raise bad({**THEIRS, **words}.get(field, field), problem, "invalid_value") from None


def _check_greedy(given: Mapping[str, Any]) -> None:
    n, temperature = given.get("num_return_sequences"), given.get("temperature")
    if type(n) is int and n > 1 and type(temperature) in (int, float) and temperature == 0:
        why = f"with temperature 0 all {shown(n)} completions are the same one: set temperature above 0, or n to 1"
        raise bad("n", why, "invalid_value")


def guided_by(told: Mapping[str, Any], forced: Guided | None = None) -> str:
    """The parameter of which the guide is."""
    if forced is not None:
        return "tool_choice"
    return "response_format" if told.get("structured_outputs") is None else "structured_outputs"


def check_streams(config: GenerationConfig) -> None:
    """Raises `ApiError` for an option with which nothing of a completion can be sent before its end."""
    for ours in config.changed(tuple(NOT_IN_PARTS)):
        why = f"with {NOT_IN_PARTS[ours]} nothing of a completion is known for good before its end: stream=false"
        raise bad("stream", why, "unsupported_parameter")


def _with_stops(given: Any, more: Iterable[int]) -> Any:
    listed = [given] if type(given) is int else given
    return [*listed, *(one for one in more if one not in listed)] if isinstance(listed, list) else given


def _bias(told: Mapping[str, Any] | None) -> dict[int, Any] | None:
    if told is None:
        return None
    for name in told:
        if not (name.isascii() and name.isdigit() and len(name) <= _LONGEST_ID):
            raise bad("logit_bias", f"{shown(name)} is no token id", "invalid_value")
    return {int(name): value for name, value in told.items()}


def _one_guide(guide: Guided | None, forced: Guided | None) -> Guided | None:
    if guide is not None and forced is not None:
        raise bad("tool_choice", "a reply that must be a call has no response_format", "invalid_value")
    return guide or forced


def _guide(asked: Parameters) -> Guided | None:
    form, structure = asked.mapping("response_format"), asked.mapping("structured_outputs")
    if form is not None and structure is not None:
        raise bad("structured_outputs", "give it or response_format, not both", "invalid_value")
    try:
        if form is not None:
            return _of_form(form)
        return None if structure is None else _of_structure(structure)
    except ValueError as error:
        why = str(error).splitlines()
        problem = next((line.strip() for line in why if "Value error, " in line), why[0])
        name = "response_format" if form is not None else "structured_outputs"
        raise bad(name, problem.partition("Value error, ")[2].partition(" [type=")[0] or problem) from None


def _of_form(form: Mapping[str, Any]) -> Guided | None:
    kind = form.get("type")
    known = {"type", "json_schema"} if kind == "json_schema" else {"type"}
    if kind in ("text", "json_object", "json_schema") and (extra := _more(form, known)):
        raise bad("response_format", f"{kind} has no field {extra}", "unknown_parameter")
    if kind == "text":
        return None
    if kind == "json_object":
        return Guided(json_schema='{"type":"object"}')
    if kind != "json_schema":
        raise bad("response_format.type", f"give text, json_object or json_schema, not {shown(kind)}", "invalid_value")
    told = form.get("json_schema")
    if not isinstance(told, dict) or not isinstance(told.get("schema"), dict):
        raise bad("response_format.json_schema", 'give {"name": ..., "schema": {...}}', "invalid_value")
    if extra := _more(told, {"name", "schema", "strict", "description"}):
        raise bad("response_format.json_schema", f"unknown field {extra}", "unknown_parameter")
    if told.get("strict") not in (None, True, False):
        raise bad("response_format.json_schema.strict", "give true or false", "invalid_type")
    return Guided(json_schema=told["schema"])


def _more(told: Mapping[str, Any], known: set[str]) -> str:
    """The first field that is given and not known; empty if there is none."""
    return next((shown(name) for name, value in told.items() if value is not None and name not in known), "")


def _of_structure(structure: Mapping[str, Any]) -> Guided:
    given = {name: value for name, value in structure.items() if value is not None}
    for name in given:
        if name not in _WAYS:
            raise bad("structured_outputs", f"give one of {', '.join(_WAYS)}, not {shown(name)}", "unknown_parameter")
    return Guided(**{_WAYS[name]: value for name, value in given.items()})


class MostTokens(NamedTuple):
    """How many tokens a completion may have, and the parameter that says so."""

    tokens: int
    name: str = "max_tokens"


def most_tokens(given: Mapping[str, int | None], default: int) -> MostTokens:
    """The `max_tokens` of a request that may name it in several ways, which must agree."""
    told = {name: value for name, value in given.items() if value is not None}
    if len(set(told.values())) > 1:
        raise ApiError(400, f"{' and '.join(told)} differ: give one of them", next(iter(told)), "invalid_value")
    return next((MostTokens(value, name) for name, value in told.items()), MostTokens(default))
