"""Messages in channels, of which one to `functions.NAME` is a call: gpt-oss."""

from __future__ import annotations

import re

from .parsed import NO_JSON, FoundCall, Known, Parsed, call_in, first_value

_START, _MESSAGE = "<|start|>", "<|message|>"
_ENDS = re.compile(r"<\|(?:end|call|return)\|>")
_TO = re.compile(r"\bto=functions\.([A-Za-z0-9_.-]{1,64})")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


def read(text: str, known: Known) -> Parsed:
    """The messages of a reply: what was analysed, what was said to the user, and calls. Others stay text."""
    said: dict[str, list[str]] = {"analysis": [], "content": []}
    calls: list[FoundCall] = []
    notes: list[str] = []
    for part in text.split(_START):
        head, message, body = part.partition(_MESSAGE)
        if not message:
            if part.strip():
                said["content"].append(part)
            continue
        body = _ENDS.sub("", body)
        to = _TO.search(head)
        call = _call(to[1], body, known) if to else None
        if isinstance(call, FoundCall):
            calls.append(call)
            continue
        if isinstance(call, str):
            notes.append(call)
        channel = _CHANNEL.search(head)
        analysed = call is None and channel is not None and channel[1] == "analysis"
        said["analysis" if analysed else "content"].append(body if call is None else part)
    reasoning = "\n".join(said["analysis"]) if said["analysis"] else None
    return Parsed("\n".join(said["content"]), tuple(calls), tuple(notes), reasoning)


def _call(name: str, body: str, known: Known) -> FoundCall | str:
    found = first_value(body.strip())
    if found is None or found[1] < len(body.strip()):
        return NO_JSON
    return call_in({"name": name, "arguments": found[0]}, known)
