"""`<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`: Qwen 3 Coder and 3.5."""

from __future__ import annotations

import re
from typing import Any

from .parsed import FoundCall, Known, Parsed, after_spaces, call_in, first_value, read_marked

_MARK, _END = "<tool_call>", "</tool_call>"
_FUNCTION = re.compile(r"\s*<function=([^>\n]{1,64})>")
_FUNCTION_END = "</function>"
_PARAMETER = re.compile(r"<parameter=([^>\n]{1,256})>\n?")
_PARAMETER_END = "</parameter>"


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply. What a value is, the tool's schema says: it is written without quotes."""
    return read_marked(text, _MARK, lambda at: _call(text, at, known))


def _call(text: str, at: int, known: Known) -> tuple[FoundCall | str, int] | None:
    """The call that begins at `at`, and where it ends; None where no function is named."""
    function = _FUNCTION.match(text, at)
    if function is None:
        return None
    end = function.end()
    while (end := text.find(_FUNCTION_END, end)) >= 0:
        behind = after_spaces(text, end + len(_FUNCTION_END))
        if behind == len(text) or text.startswith(_END, behind):
            name, body = function[1].strip(), text[function.end() : end]
            return _call_of(name, body, known), min(behind + len(_END), len(text))
        end = behind
    return "a call stays text: it has no end", len(text)


def _call_of(name: str, body: str, known: Known) -> FoundCall | str:
    properties = known.get(name, {}).get("properties")
    schemas = properties if isinstance(properties, dict) else {}
    arguments: dict[str, object] = {}
    at = after_spaces(body, 0)
    while at < len(body):
        parameter = _PARAMETER.match(body, at)
        end = body.find(_PARAMETER_END, parameter.end()) if parameter else -1
        if parameter is None or end < 0:
            return f"a call stays text: there is more in it than parameters, of which each ends at {_PARAMETER_END}"
        key = parameter[1]
        if key in arguments:
            return f"a call stays text: it has the parameter {key[:60]!r} twice"
        arguments[key] = _value(body[parameter.end() : end].removesuffix("\n"), schemas.get(key))
        at = after_spaces(body, end + len(_PARAMETER_END))
    return call_in({"name": name, "arguments": arguments}, known)


def _value(text: str, schema: Any) -> object:
    """The text itself where the schema wants one, else the JSON that it is, if it is any."""
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    found = first_value(text)
    return text if isinstance(found, str) or after_spaces(text, found.end) < len(text) else found.value
