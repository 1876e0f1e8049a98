"""What parsers give, and what all of them do with JSON that claims to be a call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, NoReturn

from ..json_values import too_deep
from ..message_types import MOST_CALLS
from ..strict_schema import Strict, problem_of

_SHOWN = 60
NO_JSON = "a call stays text: it is no JSON"
MORE_BEHIND = "a call stays text: something else stands behind its JSON"
TOO_MANY = f"a reply has at most {MOST_CALLS} calls: more stay text"


class _UnusableError(ValueError):
    """Raised for JSON that nobody can use, with the note. It never leaves this module."""


def _no_constant(_name: str) -> NoReturn:
    raise _UnusableError(NO_JSON)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A name that stands twice is refused: nobody knows which of the two values the model means."""
    told: dict[str, object] = {}
    for name, value in pairs:
        if name in told:
            why = f"an object in it has the name {name[:_SHOWN]!r} twice, and nobody knows which value is meant"
            raise _UnusableError(f"a call stays text: {why}")
        told[name] = value
    return told


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once)
_SPACES = re.compile(r"\s*")
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
    if too_deep(given):
        return f"a call of {name!r} stays text: its arguments are nested deeper than a request may be"
    if (told := _json(given)) is None:
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


class Value(NamedTuple):
    """A value of JSON, and where its text ends."""

    value: object
    end: int


def first_value(text: str, start: int = 0) -> Value | str:
    """The JSON value behind the spaces at `start`, or why there is none that can be used."""
    try:
        return Value(*_DECODER.raw_decode(text, after_spaces(text, start)))
    except _UnusableError as error:
        return str(error)
    except json.JSONDecodeError:
        return NO_JSON
    except RecursionError:
        return "a call stays text: its JSON is nested too deep"
    except ValueError:
        return "a call stays text: a number in it has more digits than are read"


def after_spaces(text: str, at: int) -> int:
    """Where the first character from `at` on is that is no space."""
    found = _SPACES.match(text, at)
    return found.end() if found else at


def read_marked(text: str, mark: str, read_at: Callable[[int], tuple[FoundCall | str, int] | None]) -> Parsed:
    """The calls of a reply in which each begins with a mark.

    `read_at` takes the place behind a mark and gives a call, or why it stays text, and where its text ends; None where
    the mark begins no call.
    """
    calls: list[FoundCall] = []
    notes: list[str] = []
    kept: list[str] = []
    at = looked = 0
    while (start := text.find(mark, looked)) >= 0:
        looked = start + len(mark)
        if (read := read_at(looked)) is None:
            continue
        if len(calls) + len(notes) == MOST_CALLS:
            notes.append(TOO_MANY)
            break
        call, looked = read
        if isinstance(call, str):
            notes.append(call)
        else:
            calls.append(call)
            kept.append(text[at:start])
            at = looked
    return Parsed("".join(kept) + text[at:], tuple(calls), tuple(notes))
