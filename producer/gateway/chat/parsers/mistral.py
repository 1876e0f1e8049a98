"""`[TOOL_CALLS] [{"name": ..., "arguments": {...}}]`, and in later models `[TOOL_CALLS]name[ARGS]{...}`: Mistral."""

from __future__ import annotations

import re

from .parsed import NO_JSON, FoundCall, Known, Parsed, call_in, first_value

_TAG = "[TOOL_CALLS]"
_NAMED = re.compile(r"\s*([A-Za-z0-9_.-]{1,64})(?:\[CALL_ID\][A-Za-z0-9]*)?(?:\[ARGS\])?\s*(?=\{)")


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply; if one is none, all of it stays text."""
    content, tag, rest = text.partition(_TAG)
    if not tag:
        return Parsed(text)
    found = _listed(rest) if rest.lstrip().startswith("[") else _named(rest)
    if found is None:
        return Parsed(text, (), (NO_JSON,))
    calls = [call_in(value, known, more=("id",)) for value in found]
    wrong = tuple(call for call in calls if isinstance(call, str))
    if wrong or not calls:
        return Parsed(text, (), wrong)
    return Parsed(content, tuple(call for call in calls if isinstance(call, FoundCall)))


def _listed(rest: str) -> list[object] | None:
    body = rest.lstrip()
    found = first_value(body)
    if found is None or body[found[1] :].strip() or not isinstance(found[0], list):
        return None
    return found[0]


def _named(rest: str) -> list[object] | None:
    found: list[object] = []
    for part in rest.split(_TAG):
        name = _NAMED.match(part)
        value = first_value(part, name.end()) if name else None
        if name is None or value is None or part[value[1] :].strip():
            return None
        found.append({"name": name[1], "arguments": value[0]})
    return found
