"""Whether a prompt begins the thought of the reply behind it.

Only what the template puts behind the last message counts: what a user or a tool wrote may have the mark too.
"""

from __future__ import annotations

from collections.abc import Iterator

from .habits import MARK, Habits, rendered, tool_messages
from .message_types import Message, Tool
from .reply import CLOSE, OPEN
from .template import ChatTemplate

PROMPT_END = 128
"""So many ids at the end of a prompt have all that a template puts behind the last message."""
_TOOL: Tool = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}


class Opening:
    """What one template puts behind messages, found out by asking it. Spaces do not count: tokens may swallow them."""

    def __init__(self, *, template: ChatTemplate, habits: Habits) -> None:
        """Raises nothing: a role that the template refuses is left out."""
        behind = {_squeezed(text) for text in _behind(template, habits)}
        self._seams = {seam for text in behind if (seam := text.partition(OPEN)[0].partition(CLOSE)[0])}
        self._opened = {text for text in behind if OPEN in text and CLOSE not in text}
        special = {_squeezed(token) for token in habits.special} - {OPEN, CLOSE, ""}
        self._ends = self._seams | special

    def opens(self, prompt_end: str) -> bool:
        """Whether what is sampled behind this text begins inside a thought.

        Behind a mark that a message has in it stands what ends the message or begins the reply.
        """
        text = _squeezed(prompt_end)
        _, mark, rest = text.rpartition(OPEN)
        if not mark or CLOSE in rest:
            return False
        if not self._seams:  # nothing tells the end of a message but the very text behind it
            return any(text.endswith(opened) for opened in self._opened)
        return not any(end in rest for end in self._ends)


def _behind(template: ChatTemplate, habits: Habits) -> Iterator[str]:
    """What comes behind a last message of each role, without tools and with some."""
    asked: Message = {"role": "user", "content": "q"}
    last: list[list[Message]] = [
        [{"role": "user", "content": MARK}],
        *([asked, {"role": role, "content": MARK}] for role in ("system", "assistant")),
        tool_messages(habits.call_style) or [],
    ]
    for tools in ([], [_TOOL]) if habits.tools else ([],):
        texts = (rendered(template, messages, tools) for messages in last if messages)
        yield from (text.rpartition(MARK)[2] for text in texts if text and MARK in text)


def _squeezed(text: str) -> str:
    return "".join(text.split())
