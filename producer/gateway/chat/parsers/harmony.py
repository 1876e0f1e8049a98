"""Messages in channels, of which one to `functions.NAME` is a call: gpt-oss."""

from __future__ import annotations

import re

from ..message_types import MOST_CALLS
from .parsed import MORE_BEHIND, TOO_MANY, FoundCall, Known, Parsed, call_in, first_value

_START, _MESSAGE = "<|start|>", "<|message|>"
_ENDS = re.compile(r"<\|(?:end|call|return)\|>")
_BEHIND = re.compile(rf"(?:\s|{_ENDS.pattern})*(?={re.escape(_START)}|\Z)")
_TO = re.compile(r"\bto=functions\.([A-Za-z0-9_.-]{1,64})")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


def read(text: str, known: Known) -> Parsed:
    """The messages of a reply: what was analysed, what was said to the user, and calls. Others stay text."""
    said: dict[str, list[str]] = {"analysis": [], "content": []}
    calls: list[FoundCall] = []
    notes: list[str] = []
    at = 0
    while at < len(text):
        end = _found(text, _START, at, len(text))
        body = _found(text, _MESSAGE, at, end)
        head, begin = text[at:body] if body < end else "", at
        call: FoundCall | str | None = None
        if head and (to := _TO.search(head)):
            is_over = len(calls) + len(notes) >= MOST_CALLS
            call, end = (TOO_MANY, end) if is_over else _call(text, to[1], body + len(_MESSAGE), end, known)
        if isinstance(call, FoundCall):
            calls.append(call)
        else:
            notes += [call] if call and len(calls) + len(notes) <= MOST_CALLS else []
            part, told = _told(text[begin:end], "" if call else head)
            said[part] += [told] if head or told.strip() else []
        at = end + len(_START)
    reasoning = "\n".join(said["analysis"]) if said["analysis"] else None
    return Parsed("\n".join(said["content"]), tuple(calls), tuple(notes), reasoning)


def _told(message: str, head: str) -> tuple[str, str]:
    """Whether a message is analysis or content, and what it says; without a head all of it is text."""
    if not head:
        return "content", message
    channel = _CHANNEL.search(head)
    body = _ENDS.sub("", message[len(head) + len(_MESSAGE) :])
    return "analysis" if channel is not None and channel[1] == "analysis" else "content", body


def _call(text: str, name: str, at: int, end: int, known: Known) -> tuple[FoundCall | str, int]:
    """The call whose JSON begins at `at`, and where it ends: its texts may have marks in them. `end`: the next mark."""
    found = first_value(text, at)
    if isinstance(found, str):
        return found, end
    behind = _BEHIND.match(text, found.end)
    if behind is None:
        return MORE_BEHIND, end
    return call_in({"name": name, "arguments": found.value}, known), behind.end()


def _found(text: str, mark: str, at: int, end: int) -> int:
    """Where the next mark is; `end` if there is none before that."""
    found = text.find(mark, at, end)
    return end if found < 0 else found
