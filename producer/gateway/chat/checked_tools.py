"""Tools of a request, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .errors import ChatRequestError
from .json_values import mapping_at, rendered_at, sequence_at, text_at
from .message_types import Tool
from .strict_schema import check_strict

CALL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NAME_RULE = "must be 1 to 64 letters, digits, underscores, points or hyphens"
_MAX_TOOLS = 128
_FIELDS = {"name", "description", "parameters", "strict"}


def checked_tools(value: object, param: str = "tools") -> list[Tool]:
    """The tools, in the order given; none for null. Raises `ChatRequestError`."""
    if value is None:
        return []
    tools = [_tool(row, f"{param}[{i}]") for i, row in enumerate(sequence_at(value, param, most=_MAX_TOOLS))]
    names = [tool["function"]["name"] for tool in tools]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ChatRequestError(f"{param}[{i}].function.name", "invalid_tool", f"{name!r} is there twice")
    return tools


def _tool(value: object, place: str) -> Tool:
    row = mapping_at(value, place)
    if row.get("type") != "function" or any(row[name] is not None for name in set(row) - {"type", "function"}):
        raise ChatRequestError(place, "unsupported_tool", "must be {'type': 'function', 'function': {...}}")
    function = mapping_at(row.get("function"), f"{place}.function")
    name = text_at(function.get("name"), f"{place}.function.name")
    if not CALL_NAME.fullmatch(name):
        raise ChatRequestError(f"{place}.function.name", "invalid_tool", NAME_RULE)
    for field, given in function.items():
        if field not in _FIELDS and given is not None:
            raise ChatRequestError(f"{place}.function.{field[:80]}", "unsupported_field", "a function cannot have it")
    told: Tool = {"type": "function", "function": _told(name, function, place)}
    if not _is_strict(function, f"{place}.function.strict"):
        return told
    check_strict(told["function"]["parameters"], f"{place}.function.parameters")
    return {**told, "strict": True}


def _told(name: str, function: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What the template sees: fields in the order in which the templates' models were trained to see them."""
    told: dict[str, Any] = {"name": name}
    if function.get("description") is not None:
        told["description"] = text_at(function["description"], f"{place}.function.description")
    given = function.get("parameters")
    empty: dict[str, Any] = {"type": "object", "properties": {}}
    told["parameters"] = dict(rendered_at(given, f"{place}.function.parameters")) if given else empty
    return told


def _is_strict(function: Mapping[str, Any], place: str) -> bool:
    given = function.get("strict")
    if given is not None and not isinstance(given, bool):
        raise ChatRequestError(place, "invalid_type", "must be true or false")
    return bool(given)
