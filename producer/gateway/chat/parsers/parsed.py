"""What parsers give, and what all of them do with JSON that claims to be a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from typing import NamedTuple

_SHOWN = 60
_DECODER = json.JSONDecoder()


class FoundCall(NamedTuple):
    """A call: the tool's name, and its arguments as JSON."""

    name: str
    arguments: str


class Parsed(NamedTuple):
    """The text that is no call, the calls, and what is to be told of those that stayed text."""

    content: str
    calls: tuple[FoundCall, ...] = ()
    notes: tuple[str, ...] = ()


class Parser(NamedTuple):
    """`read` takes a reply with its special tokens, and the names of the tools that there are.

    `marks` are texts at which a call may begin: what stands before the first of them is content for certain,
    and with `leading` a reply that begins with none of them has no call.
    `short_ids`: ids of calls are nine letters and digits, as the templates of these models demand.
    """

    name: str
    read: Callable[[str, Set[str]], Parsed]
    marks: tuple[str, ...] = ()
    leading: bool = False
    short_ids: bool = False


def call_in(value: object, names: Set[str], arguments: str = "arguments") -> FoundCall | str:
    """The call that an object of JSON makes, or why it is none."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return "a call without a name stays text"
    name, given = value["name"], value.get(arguments, {})
    if name not in names:
        return f"a call of {name[:_SHOWN]!r} stays text: there is no such tool"
    if not isinstance(given, dict):
        return f"a call of {name!r} stays text: its arguments are no object"
    return FoundCall(name, json.dumps(given, ensure_ascii=False))


def call_of_text(text: str, names: Set[str], arguments: str = "arguments") -> FoundCall | str:
    """The same for the text of an object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "a call stays text: it is no JSON"
    return call_in(value, names, arguments)


def first_value(text: str, start: int = 0) -> tuple[object, int] | None:
    """The JSON value at `start`, and where it ends; None where there is none."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
