"""Which earlier turn a request goes on from.

Clients send the whole conversation each time. A turn's note has a digest of the messages that it was asked with: by it
the turns are found whose messages a new request begins with. Whether the message after those is what this turn replied,
its result tells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .json_values import json_object
from .message_types import Message, Tool
from .reply import Reply

TurnT = TypeVar("TurnT")
_FORM = b"chat 1"
"""Changes with what a digest is made of: an older note then matches nothing."""


@dataclass(frozen=True, kw_only=True)
class Candidate(Generic[TurnT]):
    """A turn whose messages are the first `length` of the request; the message behind them is an assistant's."""

    turn: TurnT
    length: int


def asked(messages: Sequence[Message], tools: Sequence[Tool] = (), options: Mapping[str, Any] | None = None) -> bytes:
    """What to keep in a turn's note: a digest of all that its prompt was made of."""
    return _FORM + b" " + _digests(messages, tools, options or {})[-1].encode()


def candidates(
    turns: Iterable[tuple[TurnT, bytes]],
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    options: Mapping[str, Any] | None = None,
) -> list[Candidate[TurnT]]:
    """Turns, with their notes, that the request may go on from: those with most messages first, then the latest."""
    lengths = {
        _FORM + b" " + digest.encode(): length
        for length, digest in enumerate(_digests(messages, tools, options or {})[:-1])
        if length and messages[length]["role"] == "assistant"
    }
    found = [Candidate(turn=turn, length=lengths[note]) for turn, note in reversed(list(turns)) if note in lengths]
    return sorted(found, key=lambda one: one.length, reverse=True)


def answers(message: Message, reply: Reply) -> bool:
    """Whether an assistant's message is that reply.

    Spaces around its text, the thought and the ids of calls may differ: clients change them, and they are not what the
    prompt is made of.
    """
    return _said(message) == _said(reply.message())


def reply_digest(message: Message) -> bytes:
    """A digest of what an assistant's message says: messages of which one `answers` the other have the same."""
    return hashlib.sha256(_said(message)).digest()


def is_very(message: Message, reply: Reply) -> bool:
    """Whether a message that answers as this reply does is this very one, by the ids of its calls and its thought.

    Several completions may make the same call after different thoughts.
    """
    theirs = [call["id"] for call in message.get("tool_calls", ())]
    thought = message.get("reasoning_content", reply.reasoning)
    return theirs == [call.id for call in reply.tool_calls] and thought == reply.reasoning


def _digests(messages: Sequence[Message], tools: Sequence[Tool], options: Mapping[str, Any]) -> list[str]:
    """A digest of the first i messages, for each i from 0 to all of them."""
    state = hashlib.sha256(_bytes([list(tools), dict(options)]))
    digests = [state.hexdigest()]
    for message in messages:
        state.update(_bytes(_canonical(message)))
        digests.append(state.hexdigest())
    return digests


def _canonical(message: Message) -> list[Any]:
    """A message without what may differ though it is the same one."""
    if message["role"] != "assistant":
        return [message["role"], message["content"], message.get("name")]
    calls = [
        [call["function"]["name"], dict(json_object(call["function"]["arguments"], "arguments"))]
        for call in message.get("tool_calls", ())
    ]
    return ["assistant", (message["content"] or "").strip(), calls]


def _said(message: Message) -> bytes:
    """What a message says: the same bytes for messages that say the same."""
    return _bytes(_even(_canonical(message)))


def _even(value: Any) -> Any:
    """The same with one spelling for numbers that are equal, as 1 and 1.0; true is no number."""
    if isinstance(value, dict):
        return {name: _even(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_even(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bytes(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
