"""`<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`: Qwen 3 Coder and 3.5."""

from __future__ import annotations

import re
from typing import Any

from .parsed import FoundCall, Known, Parsed, call_in, first_value, read_marked

_CALL = re.compile(r"<tool_call>\s*<function=([^>\n]{1,64})>(.*?)</function>\s*(?:</tool_call>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]{1,256})>\n?(.*?)\n?</parameter>\s*", re.DOTALL)


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply. What a value is, the tool's schema says: it is written without quotes."""
    return read_marked(text, _CALL, lambda match: _call(match[1].strip(), match[2], known))


def _call(name: str, body: str, known: Known) -> FoundCall | str:
    if _PARAMETER.sub("", body).strip():
        return "a call stays text: there is more in it than parameters"
    properties = known.get(name, {}).get("properties")
    schemas = properties if isinstance(properties, dict) else {}
    keys = [match[1] for match in _PARAMETER.finditer(body)]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        return f"a call stays text: it has the parameter {twice[:60]!r} twice"
    arguments = {match[1]: _value(match[2], schemas.get(match[1])) for match in _PARAMETER.finditer(body)}
    return call_in({"name": name, "arguments": arguments}, known)


def _value(text: str, schema: Any) -> object:
    """The text itself where the schema wants one, else the JSON that it is, if it is any."""
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    found = first_value(text.strip())
    if found is None or found[1] < len(text.strip()):
        return text
    return found[0]
