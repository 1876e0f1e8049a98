"""A reply that is nothing but `{"name": ..., "parameters": {...}}`, or several of them after semicolons: Llama 3."""

from __future__ import annotations

from ..message_types import MOST_CALLS
from .parsed import TOO_MANY, FoundCall, Known, Parsed, after_spaces, call_in, first_value

_TAG = "<|python_tag|>"


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply; text beside them makes all of it text."""
    body = text.strip().removeprefix(_TAG).strip()
    if not body.startswith("{"):
        return Parsed(text)
    calls: list[FoundCall] = []
    at = 0
    while at < len(body):
        found = TOO_MANY if len(calls) == MOST_CALLS else first_value(body, at)
        call = found if isinstance(found, str) else _call(found.value, known)
        if isinstance(found, str) or isinstance(call, str):
            return Parsed(text, (), (str(call),))
        calls.append(call)
        at = _behind(body, found.end)
    return Parsed("", tuple(calls))


def _call(value: object, known: Known) -> FoundCall | str:
    """Llama 3 puts `"type": "function"` into some calls, and `arguments` where it saw that name."""
    key = "arguments" if isinstance(value, dict) and "arguments" in value else "parameters"
    return call_in(value, known, key, ("type",))


def _behind(body: str, at: int) -> int:
    """Where the next value begins: behind spaces and one semicolon."""
    at = after_spaces(body, at)
    return after_spaces(body, at + 1) if body.startswith(";", at) else at
