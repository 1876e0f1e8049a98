"""`[TOOL_CALLS] [{"name": ..., "arguments": {...}}]`, and in later models `[TOOL_CALLS]name[ARGS]{...}`: Mistral."""

from __future__ import annotations

import re

from ..message_types import MOST_CALLS
from .parsed import MORE_BEHIND, NO_JSON, TOO_MANY, FoundCall, Known, Parsed, after_spaces, call_in, first_value

_TAG = "[TOOL_CALLS]"
_NAMED = re.compile(r"\s*([A-Za-z0-9_.-]{1,64})(?:\[CALL_ID\][A-Za-z0-9]*)?(?:\[ARGS\])?\s*(?=\{)")


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply; if one is none, all of it stays text."""
    content, tag, rest = text.partition(_TAG)
    if not tag:
        return Parsed(text)
    found = _listed(rest) if rest.lstrip().startswith("[") else _named(rest)
    if isinstance(found, str) or len(found) > MOST_CALLS:
        return Parsed(text, (), (found if isinstance(found, str) else TOO_MANY,))
    calls = [call_in(value, known, more=("id",)) for value in found]
    wrong = tuple(call for call in calls if isinstance(call, str))
    if wrong or not calls:
        return Parsed(text, (), wrong)
    return Parsed(content, tuple(call for call in calls if isinstance(call, FoundCall)))


def _listed(rest: str) -> list[object] | str:
    """The values of one list, or why they stay text."""
    found = first_value(rest)
    if isinstance(found, str) or not isinstance(found.value, list):
        return found if isinstance(found, str) else NO_JSON
    return found.value if after_spaces(rest, found.end) == len(rest) else MORE_BEHIND


def _named(rest: str) -> list[object] | str:
    """The calls behind their names, or why they stay text: texts in them may have the tag in them."""
    found: list[object] = []
    at = 0
    while len(found) <= MOST_CALLS:
        name = _NAMED.match(rest, at)
        value = first_value(rest, name.end()) if name else NO_JSON
        if name is None or isinstance(value, str):
            return str(value)
        found.append({"name": name[1], "arguments": value.value})
        at = after_spaces(rest, value.end)
        if at == len(rest):
            break
        if not rest.startswith(_TAG, at):
            return MORE_BEHIND
        at += len(_TAG)
    return found
