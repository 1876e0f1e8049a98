"""A reply that is nothing but `{"name": ..., "parameters": {...}}`, or several of them after semicolons: Llama 3."""

from __future__ import annotations

from .parsed import NO_JSON, FoundCall, Known, Parsed, call_in, first_value

_TAG = "<|python_tag|>"


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply; text beside them makes all of it text."""
    body = text.strip().removeprefix(_TAG).strip()
    if not body.startswith("{"):
        return Parsed(text)
    calls: list[FoundCall] = []
    at = 0
    while at < len(body):
        found = first_value(body, at)
        if found is None:
            return Parsed(text, (), (NO_JSON,))
        value, at = found
        call = _call(value, known)
        if isinstance(call, str):
            return Parsed(text, (), (call,))
        calls.append(call)
        at = _next(body, at)
    return Parsed("", tuple(calls))


def _call(value: object, known: Known) -> FoundCall | str:
    """Llama 3 puts `"type": "function"` into some calls, and `arguments` where it saw that name."""
    key = "arguments" if isinstance(value, dict) and "arguments" in value else "parameters"
    return call_in(value, known, key, ("type",))


def _next(body: str, at: int) -> int:
    """Where the next value begins: behind spaces and one semicolon."""
    rest = body[at:].lstrip()
    return len(body) - len(rest.removeprefix(";").lstrip())
