"""A sampled reply as a client sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .message_types import Message, Tool
from .parsers import FoundCall, Parsed, Parser
from .strict_schema import Strict

OPEN, CLOSE = "<think>", "</think>"
SPACES = " \t\r\n"
"""What content loses at its end where calls come behind it."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call that the policy made: `arguments` is JSON."""

    id: str
    name: str
    arguments: str

    def as_json(self) -> dict[str, Any]:
        """As OpenAI's API has it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """`content` is None where there are only calls; `reasoning` None where no thought was found. `finish_reason` is
    `tool_calls` where calls were made. `notes` tell which calls stayed text, and why.
    """

    content: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    finish_reason: str = "stop"
    notes: tuple[str, ...] = ()

    def message(self) -> Message:
        """The assistant's message, as OpenAI's API has it; the thought is vLLM's `reasoning_content`."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [call.as_json() for call in self.tool_calls]
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        return message


def read_reply(
    text: str,
    tools: Sequence[Tool],
    *,
    parser: Parser,
    thinks: bool,
    opened: bool,
    plain: Callable[[str], str],
    finish: str,
    seed: str,
) -> Reply:
    """The reply that a text with its special tokens is. `thinks`: thoughts are told apart; `opened`: the
    prompt had begun one; `plain` drops special tokens.
    """
    thought, said = _thought(text, opened=opened) if thinks else (None, text)
    known = {tool["function"]["name"]: _schema(tool) for tool in tools}
    read = parser.read(said, known) if known or parser.channels else Parsed(said)
    found, content = read.calls, plain(read.content)
    reasoning = thought if read.reasoning is None else read.reasoning
    if found:
        content = content.rstrip(SPACES)
    calls = tuple(_call(call, f"{seed}:{i}", short=parser.short_ids) for i, call in enumerate(found))
    return Reply(
        content=content or (None if calls else ""),
        tool_calls=calls,
        reasoning=None if reasoning is None else plain(reasoning),
        finish_reason="tool_calls" if calls and finish == "stop" else finish,
        notes=read.notes,
    )


def _schema(tool: Tool) -> dict[str, Any]:
    schema: dict[str, Any] = tool["function"]["parameters"]
    return Strict(schema) if tool.get("strict") else schema


def _thought(text: str, *, opened: bool) -> tuple[str | None, str]:
    """What was thought, and what was said after it. A thought that has no end is all there is, and one that the prompt
    had begun may be begun again.
    """
    body = text.lstrip()
    if body.startswith(OPEN):
        text = body.removeprefix(OPEN)
    elif not opened:
        return None, text
    thought, _, said = text.partition(CLOSE)
    return thought.strip("\n"), said.lstrip("\n")


def _call(found: FoundCall, seed: str, *, short: bool) -> ToolCall:
    digest = hashlib.sha256(seed.encode()).hexdigest()
    return ToolCall(id=digest[:9] if short else f"call_{digest[:24]}", name=found.name, arguments=found.arguments)
