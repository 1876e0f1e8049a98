"""Schemas of tools with `strict`: which of them can be held, and whether arguments match them.

It knows what OpenAI's strict mode knows but texts' patterns and formats. A pattern may run for ever, and it comes from
a client; a keyword that is not held is refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .errors import ChatRequestError

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
NOTES = {"title", "description", "default", "examples", "deprecated", "$schema", "$defs", "definitions"}
"""Keywords that ask nothing of a value."""
_BOUNDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
}
_LENGTHS: Mapping[str, tuple[type[str] | type[list[Any]], int]] = {
    "minLength": (str, 1), "maxLength": (str, -1), "minItems": (list, 1), "maxItems": (list, -1),
}  # fmt: skip
_STEPS = 20_000
"""Schemas that one call is held to at most: those that refer to themselves have no end."""

_TOO_MUCH = "there is more to look at than is looked at"


class Strict(dict[str, Any]):
    """The schema of a tool whose calls are held to it."""


def check_strict(schema: Mapping[str, Any], place: str) -> None:
    """Raises `ChatRequestError` for a schema that calls cannot be held to."""
    for one, at in _all_in(schema, place):
        _check(one, schema, at)


def problem_of(value: object, schema: Mapping[str, Any]) -> str:
    """Where a value does not match a schema that was checked; empty if it does."""
    try:
        return _Held(schema).problem(value, schema, "arguments")
    except RecursionError:
        return _TOO_MUCH


def _all_in(schema: object, place: str) -> Iterator[tuple[Any, str]]:
    """This schema and all inside it, with their places."""
    yield schema, place
    if not isinstance(schema, dict):
        return
    for name in ("items", "additionalProperties"):
        if name in schema and not isinstance(schema[name], bool):
            yield from _all_in(schema[name], f"{place}.{name}")
    for name in ("properties", "$defs", "definitions"):
        inner = schema.get(name, {})
        for key, one in inner.items() if isinstance(inner, dict) else [("", inner)]:
            yield from _all_in(one, f"{place}.{name}.{key[:80]}")
    for name in ("anyOf", "allOf"):
        listed = schema.get(name, [])
        for i, one in enumerate(listed if isinstance(listed, list) else [listed]):
            yield from _all_in(one, f"{place}.{name}[{i}]")


def _check(schema: Any, root: Mapping[str, Any], place: str) -> None:
    if not isinstance(schema, dict):
        raise _refused(place, "must be a schema, an object")
    for name, given in schema.items():
        if name in NOTES:
            continue
        if name not in _IS_RIGHT:
            raise _refused(place, f"strict tools are not held to {name[:80]!r}: leave it out, or strict")
        if not _IS_RIGHT[name](given) or (name == "$ref" and referred(given, root) is None):
            raise _refused(f"{place}.{name}", "is nothing that this keyword can have")


def _refused(place: str, problem: str) -> ChatRequestError:
    return ChatRequestError(place, "unsupported_schema", problem)


def _is_type(given: object) -> bool:
    names = given if isinstance(given, list) else [given]
    return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _is_schemas(given: object) -> bool:
    return isinstance(given, list) and bool(given)


_IS_RIGHT: Mapping[str, Any] = {
    "type": _is_type,
    "enum": _is_schemas,
    "const": lambda _given: True,
    "properties": lambda given: isinstance(given, dict),
    "required": lambda given: isinstance(given, list) and all(isinstance(name, str) for name in given),
    "additionalProperties": lambda given: isinstance(given, bool | dict),
    "items": lambda given: isinstance(given, dict),
    "anyOf": _is_schemas,
    "allOf": _is_schemas,
    "$ref": lambda given: isinstance(given, str),
    **dict.fromkeys(_BOUNDS, _is_number),
    **dict.fromkeys(_LENGTHS, lambda given: type(given) is int and given >= 0),
}


def referred(name: str, root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that a reference names: the whole one, or one of its definitions."""
    if name == "#":
        return root
    head, _, key = name.rpartition("/")
    found = root.get(head.removeprefix("#/")) if head in {"#/$defs", "#/definitions"} else None
    one = found.get(key) if isinstance(found, dict) else None
    return one if isinstance(one, dict) else None


class _Held:
    """One value that is held to a schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _STEPS

    def problem(self, value: Any, schema: Mapping[str, Any], at: str) -> str:
        self._left -= 1
        if self._left < 0:
            return _TOO_MUCH
        return next(filter(None, self._problems(value, schema, at)), "")

    def _problems(self, value: Any, schema: Mapping[str, Any], at: str) -> Iterator[str]:
        """What is wrong, or empty texts."""
        types = schema.get("type", [])
        if types and not any(_has_type(value, name) for name in (types if isinstance(types, list) else [types])):
            yield f"{at} is not of type {types}"
        if "enum" in schema and _spelled(value) not in map(_spelled, schema["enum"]):
            yield f"{at} is none of those in its enum"
        if "const" in schema and _spelled(value) != _spelled(schema["const"]):
            yield f"{at} is not the const"
        yield from self._sizes(value, schema, at)
        if isinstance(value, dict):
            yield from self._members(value, schema, at)
        if isinstance(value, list) and "items" in schema:
            yield from (self.problem(one, schema["items"], f"{at}[{i}]") for i, one in enumerate(value))
        yield from self._joined(value, schema, at)

    def _sizes(self, value: Any, schema: Mapping[str, Any], at: str) -> Iterator[str]:
        if _is_number(value):
            wrong = (name for name, holds in _BOUNDS.items() if name in schema and not holds(value, schema[name]))
            yield from (f"{at} is beyond its {name}" for name in wrong)
        for name, (kind, sign) in _LENGTHS.items():
            if name in schema and isinstance(value, kind) and (len(value) - schema[name]) * sign < 0:
                yield f"{at} is beyond its {name}"

    def _members(self, value: dict[str, Any], schema: Mapping[str, Any], at: str) -> Iterator[str]:
        yield from (f"{at} has no {name[:40]!r}" for name in schema.get("required", []) if name not in value)
        known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name, one in value.items():
            if name in known:
                yield self.problem(one, known[name], f"{at}.{name[:40]}")
            elif more is False:
                yield f"{at} has {name[:40]!r}, which its schema has not"
            elif isinstance(more, dict):
                yield self.problem(one, more, f"{at}.{name[:40]}")

    def _joined(self, value: Any, schema: Mapping[str, Any], at: str) -> Iterator[str]:
        if "$ref" in schema and (found := referred(schema["$ref"], self._root)) is not None:
            yield self.problem(value, found, at)
        yield from (self.problem(value, one, at) for one in schema.get("allOf", []))
        if "anyOf" in schema and all(self.problem(value, one, at) for one in schema["anyOf"]):
            yield f"{at} matches none of its anyOf"


def _has_type(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name]) and (name != "integer" or value == int(value))  # type: ignore[call-overload]


def _spelled(value: object) -> str:
    return json.dumps(value, sort_keys=True)
