"""Calls between special tokens of their own: DeepSeek V3, R1 and V3.1, which leaves the fence around JSON out."""

from __future__ import annotations

import re

from .parsed import NO_JSON, FoundCall, Known, Parsed, call_in, first_value

_BAR = "\uff5c"
CALLS = f"<{_BAR}tool\u2581calls\u2581begin{_BAR}>"
_BEGIN, _SEP = f"<{_BAR}tool\u2581call\u2581begin{_BAR}>", f"<{_BAR}tool\u2581sep{_BAR}>"
_ENDS = f"<{_BAR}tool\u2581call\u2581end{_BAR}>", f"<{_BAR}tool\u2581calls\u2581end{_BAR}>"
_FENCED = re.compile(r"([^\n]*)\n```json\n(.*?)\n?```\s*\Z", re.DOTALL)


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply; if one is none, all of it stays text."""
    content, tag, rest = text.partition(CALLS)
    if not tag:
        return Parsed(text)
    for end in _ENDS:
        rest = rest.replace(end, "")
    calls = [_call(part, known) for part in rest.split(_BEGIN) if part.strip()]
    wrong = tuple(call for call in calls if isinstance(call, str))
    if wrong or not calls:
        return Parsed(text, (), wrong)
    return Parsed(content, tuple(call for call in calls if isinstance(call, FoundCall)))


def _call(part: str, known: Known) -> FoundCall | str:
    """`function<sep>name`, a line and JSON in a fence; or `name<sep>` and JSON."""
    head, sep, body = part.strip().partition(_SEP)
    fenced = _FENCED.fullmatch(body)
    name, told = (fenced[1], fenced[2]) if fenced else (head, body)
    found = first_value(told.strip()) if sep else None
    if found is None or found[1] < len(told.strip()):
        return NO_JSON
    return call_in({"name": name.strip(), "arguments": found[0]}, known)
