"""Options of a `GenerationConfig` that have parts of their own."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .guides import guide_problem

MAX_GUIDE_CHARS = 2**16
"""Most characters of a regex, a schema, a grammar, or all choices together."""

GuideText = Annotated[str, Field(min_length=1, max_length=MAX_GUIDE_CHARS)]


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Choices = Annotated[tuple[GuideText, ...], BeforeValidator(_as_tuple), Field(min_length=1, max_length=1024)]


class Guided(BaseModel):
    """What the text of a completion must match: exactly one of these.

    A worker compiles it in a process of its own, with bounds on time and memory, before its engine sees it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    regex: GuideText | None = None
    """A regular expression that the whole text matches."""
    json_schema: GuideText | None = None
    """A JSON schema, as JSON text; a `$ref` stays inside it (`#/...`)."""
    choice: Choices | None = None
    """The texts of which it is one."""
    grammar: GuideText | None = None
    """A grammar in GBNF, xgrammar's extended Backus-Naur form, whose rule `root` is the whole text."""

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
