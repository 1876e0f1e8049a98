"""Calls between special tokens of their own: DeepSeek V3, R1 and V3.1, which leaves the fence around JSON out."""

from __future__ import annotations

import re

from ..message_types import MOST_CALLS
from .parsed import MORE_BEHIND, NO_JSON, TOO_MANY, FoundCall, Known, Parsed, call_in, first_value

_BAR = "\uff5c"
CALLS = f"<{_BAR}tool\u2581calls\u2581begin{_BAR}>"
_BEGIN, _SEP = f"<{_BAR}tool\u2581call\u2581begin{_BAR}>", f"<{_BAR}tool\u2581sep{_BAR}>"
_ENDS = f"<{_BAR}tool\u2581call\u2581end{_BAR}>", f"<{_BAR}tool\u2581calls\u2581end{_BAR}>"
_BETWEEN = re.compile(rf"(?:\s|{'|'.join(_ENDS)})*")
_FENCE = re.compile(r"([^\n]{0,100})\n```json\n")
_FENCE_END = re.compile(r"\s*```")


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply; if one is none, all of it stays text."""
    content, tag, rest = text.partition(CALLS)
    if not tag:
        return Parsed(text)
    calls: list[FoundCall] = []
    at = _behind(rest, 0)
    while at < len(rest):
        call, at = (TOO_MANY, at) if len(calls) == MOST_CALLS else _call(rest, at, known)
        if isinstance(call, str):
            return Parsed(text, (), (call,))
        calls.append(call)
    return Parsed(content, tuple(calls)) if calls else Parsed(text)


def _call(text: str, at: int, known: Known) -> tuple[FoundCall | str, int]:
    """`function<sep>name`, a line and JSON in a fence; or `name<sep>` and JSON. And where the next call begins."""
    at += len(_BEGIN) if text.startswith(_BEGIN, at) else 0
    sep = text.find(_SEP, at)
    if sep < 0:
        return NO_JSON, at
    name, begin = text[at:sep], sep + len(_SEP)
    if fence := _FENCE.match(text, begin):
        name, begin = fence[1], fence.end()
    found = first_value(text, begin)
    if isinstance(found, str):
        return found, at
    closed = _FENCE_END.match(text, found.end) if fence else None
    end = _behind(text, closed.end() if closed else found.end)
    if end < len(text) and not text.startswith(_BEGIN, end):
        return MORE_BEHIND, at
    return call_in({"name": name.strip(), "arguments": found.value}, known), end


def _behind(text: str, at: int) -> int:
    """Where the next call begins: behind spaces and the ends of calls."""
    between = _BETWEEN.match(text, at)
    return between.end() if between else at
