"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen 2.5 and 3."""

from __future__ import annotations

from .parsed import MORE_BEHIND, FoundCall, Known, Parsed, Value, after_spaces, call_in, first_value, read_marked

_MARK, _END = "<tool_call>", "</tool_call>"


def read(text: str, known: Known) -> Parsed:
    """The calls of a reply. The last one may lack its end, as it does where the end of turn came instead."""
    return read_marked(text, _MARK, lambda at: _call(text, at, known))


def _call(text: str, at: int, known: Known) -> tuple[FoundCall | str, int]:
    """The call that begins at `at`, and where it ends: its texts may have the end mark in them."""
    found = first_value(text, at)
    if isinstance(found, Value):
        behind = after_spaces(text, found.end)
        if behind == len(text) or text.startswith(_END, behind):
            return call_in(found.value, known), min(behind + len(_END), len(text))
        found = MORE_BEHIND
    end = text.find(_END, at)
    return found, len(text) if end < 0 else end + len(_END)
