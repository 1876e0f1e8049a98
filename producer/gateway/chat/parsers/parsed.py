"""What parsers give, and what all of them do with JSON that claims to be a call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from ..json_values import too_deep
from ..strict_schema import Strict, problem_of

_SHOWN = 60


NO_JSON = "a call stays text: it is no JSON, or an object in it has a name twice"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A name that stands twice is refused: nobody knows which of the two values the model means."""
    if len(told := dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice")
    return told


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once)
Known = Mapping[str, Mapping[str, Any]]
"""The tools that there are: the schema of the parameters by name."""


class FoundCall(NamedTuple):
    """A call: the tool's name, and its arguments as JSON."""

    name: str
    arguments: str


class Parsed(NamedTuple):
    """The text that is no call, the calls, what is to be told of those that stayed text, and what was only thought
    (None: nothing, or the parser does not tell).
    """

    content: str
    calls: tuple[FoundCall, ...] = ()
    notes: tuple[str, ...] = ()
    reasoning: str | None = None


class Parser(NamedTuple):
    """`read` takes a reply with its special tokens, and the tools that there are.

    `marks` are texts at which a call may begin: what stands before the first of them is content for certain,
    and with `leading` a reply that begins with none of them has no call.
    `channels`: text is parted too, so that replies are read without tools, and not before they are whole.
    `short_ids`: ids of calls are nine letters and digits, as the templates of these models demand.
    """

    name: str
    read: Callable[[str, Known], Parsed]
    marks: tuple[str, ...] = ()
    leading: bool = False
    channels: bool = False
    short_ids: bool = False


def call_in(value: object, known: Known, arguments: str = "arguments", more: Collection[str] = ()) -> FoundCall | str:
    """The call that an object of JSON makes, or why it is none. `more`: names that may stand beside `name` and
    `arguments`, since they are none of the call's arguments.
    """
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return "a call without a name stays text"
    name = value["name"]
    if why := _no_call(name, value, known, arguments, more):
        return f"a call of {name[:_SHOWN]!r} stays text: {why}"
    given = value[arguments]
    if too_deep(given) or (told := _json(given)) is None:
        return f"a call of {name!r} stays text: its arguments are nothing that a request can have"
    schema = known[name]
    if isinstance(schema, Strict) and (problem := problem_of(given, schema)):
        return f"a call of {name!r} stays text, since the tool is strict: {problem}"
    return FoundCall(name, told)


def _no_call(name: str, value: Mapping[str, object], known: Known, arguments: str, more: Collection[str]) -> str:
    """Why a named object is no call; empty if it is one."""
    if name not in known:
        return "there is no such tool"
    if arguments not in value:
        return f"it has no {arguments!r}"
    if other := next((one for one in value if one not in ("name", arguments, *more)), None):
        return f"a call has no {other[:_SHOWN]!r} beside {arguments!r}"
    return "" if isinstance(value[arguments], dict) else "its arguments are no object"


def _json(value: object) -> str | None:
    """JSON that UTF-8 can spell; None for infinite numbers and halves of surrogate pairs."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:
        return None
    return text


def call_of_text(text: str, known: Known) -> FoundCall | str:
    """The same for the text of an object."""
    found = first_value(text.strip())
    if found is None or found[1] < len(text.strip()):
        return NO_JSON
    return call_in(found[0], known)


def first_value(text: str, start: int = 0) -> tuple[object, int] | None:
    """The JSON value at `start`, and where it ends; None where there is none."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None


def read_marked(text: str, marked: re.Pattern[str], call_of: Callable[[re.Match[str]], FoundCall | str]) -> Parsed:
    """The calls of a reply in which each stands between marks; `call_of` gives one, or why it stays text."""
    calls: list[FoundCall] = []
    notes: list[str] = []

    def kept(match: re.Match[str]) -> str:
        call = call_of(match)
        if isinstance(call, str):
            notes.append(call)
            return match[0]
        calls.append(call)
        return ""

    content = marked.sub(kept, text)
    return Parsed(content, tuple(calls), tuple(notes))
