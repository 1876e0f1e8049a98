"""`tool_choice`: what a reply must be where a call is wanted, as a grammar in the model's own way of writing calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rollstream.schemas import Guided
from rollstream.schemas.generation.generation_parts import MAX_GUIDE_CHARS

from .errors import ChatRequestError
from .json_values import mapping_at, text_at
from .message_types import MOST_CALLS, Tool
from .parsers import Parser
from .schema_grammar import SchemaRules, too_long

_INSIDE = r'([^<] | "<"+ [^</])* "<"* "</think>" "\n"*'
_THOUGHTS = {"none": "", "maybe": f'thought ::= "<think>" {_INSIDE} | ""', "begun": f"thought ::= {_INSIDE}"}


def forced_names(choice: object, tools: Sequence[Tool]) -> tuple[str, ...]:
    """The tools of which a reply must be a call; none where nothing is forced. Raises `ChatRequestError`."""
    if choice is None or choice in ("auto", "none"):
        return ()
    if not tools:
        raise ChatRequestError("tool_choice", "invalid_value", "only with tools")
    names = tuple(tool["function"]["name"] for tool in tools)
    return names if choice == "required" else (_named(choice, names),)


def forced_call(choice: object, tools: Sequence[Tool], parser: Parser, *, thought: str = "none") -> Guided | None:
    """The guide of a reply under this `tool_choice`; None for null, `auto` and `none`, which force nothing.

    With `required` a reply is one call or several, with a function's name one call of it. `thought`: whether one may
    come first (`none`, `maybe`), or was `begun` by the prompt. Arguments are what the schema of a strict tool takes, of
    another any object of JSON. Raises `ChatRequestError`: where a schema cannot be written as a grammar, and where
    calls are written with special tokens, which a grammar over text cannot give.
    """
    names = forced_names(choice, tools)
    if not names:
        return None
    calls = _CALLS.get(parser.name)
    if calls is None:
        raise ChatRequestError(
            "tool_choice", "unsupported_parameter", f"calls of this model ({parser.name}) cannot be forced: give auto"
        )
    rules = SchemaRules()
    each = [
        calls(tool["function"]["name"], _arguments(rules, tool, f"tools[{i}]"))
        for i, tool in enumerate(tools)
        if tool["function"]["name"] in names
    ]
    begin = "thought " if thought != "none" else ""
    several = f' ("\\n" call){{0,{MOST_CALLS - 1}}}' if choice == "required" and parser.name in _SEVERAL else ""
    root = f"root ::= {begin}call{several}\ncall ::= {' | '.join(each)}"
    grammar = "\n".join([root, _THOUGHTS[thought], rules.text])
    if len(grammar) > MAX_GUIDE_CHARS:
        raise too_long()
    return Guided(grammar=grammar)


def _arguments(rules: SchemaRules, tool: Tool, place: str) -> str:
    if not tool.get("strict"):
        return "object"
    return rules.arguments(tool["function"]["parameters"], f"{place}.function.parameters")


def _named(choice: object, names: Sequence[str]) -> str:
    if not isinstance(choice, dict) or choice.get("type") != "function":
        wanted = "give auto, none, required or {'type': 'function', 'function': {'name': ...}}"
        raise ChatRequestError("tool_choice", "invalid_value", wanted)
    function = mapping_at(choice.get("function"), "tool_choice.function")
    name = text_at(function.get("name"), "tool_choice.function.name")
    if name not in names:
        raise ChatRequestError("tool_choice.function.name", "unknown_tool", f"{name[:64]!r} is not among the tools")
    return name


def _hermes(name: str, arguments: str) -> str:
    return rf'"<tool_call>\n{{\"name\": \"{name}\", \"arguments\": " {arguments} "}}\n</tool_call>"'


def _llama3(name: str, arguments: str) -> str:
    return rf'"{{\"name\": \"{name}\", \"parameters\": " {arguments} "}}"'


_CALLS: dict[str, Callable[[str, str], str]] = {"hermes": _hermes, "llama3": _llama3}
"""A call of this tool with the rule of its arguments, by the parser that reads it."""
_SEVERAL = {"hermes"}
"""Where a template takes several calls in one reply."""
