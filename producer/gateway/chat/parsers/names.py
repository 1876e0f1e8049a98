"""Which parser reads the replies of a model."""

from __future__ import annotations

from . import deepseek, harmony, hermes, llama3, mistral, qwen3_coder
from .parsed import Known, Parsed, Parser

NONE = "none"


def _as_text(text: str, _known: Known) -> Parsed:
    return Parsed(text)


_PARSERS = (
    Parser(NONE, _as_text),
    Parser("hermes", hermes.read, marks=("<tool_call>",)),
    Parser("llama3", llama3.read, marks=("<|python_tag|>", "{"), leading=True),
    Parser("mistral", mistral.read, marks=("[TOOL_CALLS]",), short_ids=True),
    Parser("deepseek", deepseek.read, marks=(deepseek.CALLS,)),
    Parser("harmony", harmony.read, channels=True),
    Parser("qwen3-coder", qwen3_coder.read, marks=("<tool_call>",)),
)
NAMES = tuple(parser.name for parser in _PARSERS)
"""The values of `--tool-calls`, beside `auto`."""
_SIGNS = (
    ("<|channel|>", "harmony"),
    (deepseek.CALLS, "deepseek"),
    ("<function=", "qwen3-coder"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3"),
    ('"parameters":', "llama3"),
)
"""What a template has in it, and what its model's calls are therefore read as; the first one decides."""


def parser_named(name: str, source: str) -> Parser:
    """The parser of that name; with `auto` the one that the template's source shows."""
    if name == "auto":
        name = next((parser for sign, parser in _SIGNS if sign in source), NONE)
    found = [parser for parser in _PARSERS if parser.name == name]
    if not found:
        raise ValueError(f"no parser {name!r}; there are auto, {', '.join(NAMES)}")
    return found[0]
