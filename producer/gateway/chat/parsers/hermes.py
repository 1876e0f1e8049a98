"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen 2.5 and 3."""

from __future__ import annotations

import re

from .parsed import FoundCall, Known, Parsed, call_of_text

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply. The last one may lack its end, as it does where the end of turn came instead."""
    calls: list[FoundCall] = []
    notes: list[str] = []

    def kept(match: re.Match[str]) -> str:
        call = call_of_text(match[1], known)
        if isinstance(call, str):
            notes.append(call)
            return match[0]
        calls.append(call)
        return ""

    content = _CALL.sub(kept, text)
    return Parsed(content, tuple(calls), tuple(notes))
