"""Options of a `GenerationConfig` that have parts of their own."""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..errors import shown
from .guides import guide_problem

MAX_GUIDE_CHARS = 2**16
"""Most characters of a regex, a schema, a grammar, or all choices together."""

GuideText = Annotated[str, Field(min_length=1, max_length=MAX_GUIDE_CHARS)]


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _as_json(value: object) -> object:
    """The text of a schema that is given as a dict. Its order stays: engines write properties in the schema's order."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"a schema is a dict or its JSON text, not {shown(value)}")
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a schema that is no JSON: {shown(str(error))}") from None


_FOREIGN = {
    "json": "json_schema",
    "schema": "json_schema",
    "json_object": "json_schema",
    "pattern": "regex",
    "choices": "choice",
    "ebnf": "grammar",
    "gbnf": "grammar",
}
"""Other libraries' names for the ways of a guide."""

Choices = Annotated[tuple[GuideText, ...], BeforeValidator(_as_tuple), Field(min_length=1, max_length=1024)]


class Guided(BaseModel):
    """What the text of a completion must match: exactly one of these.

    A worker compiles it in a process of its own, with bounds on time and memory, before its engine sees it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    regex: GuideText | None = None
    """A regular expression that the whole text matches."""
    json_schema: Annotated[GuideText | None, BeforeValidator(_as_json)] = None
    """A JSON schema, a dict or its JSON text, which it becomes; a `$ref` stays inside it (`#/...`)."""
    choice: Choices | None = None
    """The texts of which it is one."""
    grammar: GuideText | None = None
    """A grammar in GBNF, xgrammar's extended Backus-Naur form, whose rule `root` is the whole text."""

    @model_validator(mode="before")
    @classmethod
    def _names_are_known(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            if name not in cls.model_fields:
                ours = _FOREIGN.get(name) if isinstance(name, str) else None
                advice = f"write {ours!r}" if ours else f"give one of {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown name {shown(name)}; {advice}")
        return values

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}, not {given or 'none'}")
        if self.choice is not None and sum(map(len, self.choice)) > MAX_GUIDE_CHARS:
            raise ValueError(f"all choices together have at most {MAX_GUIDE_CHARS} characters")
        text = getattr(self, given[0])
        for one in text if isinstance(text, tuple) else (text,):
            if problem := guide_problem(given[0], one):
                raise ValueError(f"{given[0]} {problem}")
        return self

    @property
    def way(self) -> str:
        """The one that is given: `regex`, `json_schema`, `choice` or `grammar`."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)


class Repetition(BaseModel):
    """A completion is ended once its last tokens are the same pattern, `min_count` times in a row."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    max_pattern_size: int = Field(ge=1, le=1024)
    """Longest pattern that is looked for, in tokens."""
    min_count: int = Field(ge=2, le=1024)
    """How often it comes in a row."""
    min_pattern_size: int = Field(default=1, ge=1, le=1024)
    """Shortest pattern that is looked for, in tokens."""

    @model_validator(mode="after")
    def _sizes_are_in_order(self) -> Self:
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError(f"min_pattern_size={self.min_pattern_size} exceeds {self.max_pattern_size}, the longest")
        return self
