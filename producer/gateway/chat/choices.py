"""`tool_choice`: what a reply must be where a call is wanted, as a grammar in the model's own way of writing calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rollstream.schemas import Guided

from .errors import ChatRequestError
from .json_values import mapping_at, text_at
from .message_types import Tool
from .parsers import Parser

_JSON = r"""
object ::= "{" space (pair (space "," space pair)*)? space "}"
pair ::= string space ":" space value
array ::= "[" space (value (space "," space value)*)? space "]"
value ::= object | array | string | number | "true" | "false" | "null"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F]))* "\""
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
space ::= " "?
"""
_INSIDE = r'([^<] | "<" [^/])* "</think>" "\n"*'
_THOUGHTS = {"none": "", "maybe": f'thought ::= "<think>" {_INSIDE} | ""', "begun": f"thought ::= {_INSIDE}"}


def forced_call(choice: object, tools: Sequence[Tool], parser: Parser, *, thought: str = "none") -> Guided | None:
    """The guide of a reply under this `tool_choice`; None for null, `auto` and `none`, which force nothing.

    With `required` a reply is one call or several, with a function's name one call of it. `thought`: whether one may
    come first (`none`, `maybe`), or was `begun` by the prompt. Arguments are an object of JSON, of whatever schema.
    Raises `ChatRequestError`, also where calls are written with special tokens, which a grammar over text cannot give.
    """
    if choice is None or choice in ("auto", "none"):
        return None
    if not tools:
        raise ChatRequestError("tool_choice", "invalid_value", "only with tools")
    names = [tool["function"]["name"] for tool in tools]
    if choice != "required":
        names = [_named(choice, names)]
    calls = _CALLS.get(parser.name)
    if calls is None:
        raise ChatRequestError(
            "tool_choice", "unsupported_parameter", f"calls of this model ({parser.name}) cannot be forced: give auto"
        )
    begin = "thought " if thought != "none" else ""
    root = f"root ::= {begin}{calls(choice == 'required')}"
    name = "name ::= " + " | ".join(f'"{name}"' for name in names)
    return Guided(grammar="\n".join([root, name, _THOUGHTS[thought], _JSON]))


def _named(choice: object, names: Sequence[str]) -> str:
    if not isinstance(choice, dict) or choice.get("type") != "function":
        wanted = "give auto, none, required or {'type': 'function', 'function': {'name': ...}}"
        raise ChatRequestError("tool_choice", "invalid_value", wanted)
    function = mapping_at(choice.get("function"), "tool_choice.function")
    name = text_at(function.get("name"), "tool_choice.function.name")
    if name not in names:
        raise ChatRequestError("tool_choice.function.name", "unknown_tool", f"{name[:64]!r} is not among the tools")
    return name


def _hermes(several: bool) -> str:
    call = r'"<tool_call>\n{\"name\": \"" name "\", \"arguments\": " object "}\n</tool_call>"'
    return f'{call} ("\\n" {call})*' if several else call


def _llama3(_several: bool) -> str:
    return r'"{\"name\": \"" name "\", \"parameters\": " object "}"'


_CALLS: dict[str, Callable[[bool], str]] = {"hermes": _hermes, "llama3": _llama3}
"""The rule of a call, by the parser that reads it; of several where the template takes several."""
