"""What a chat template puts behind a sampled reply.

The reply is replaced by a mark, and the template renders the conversation around it: what comes behind the mark is what
comes behind the sampled ids. The template never sees the ids, so it cannot change them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ChatRequestError, NotContinuedError
from .habits import MARK, Habits
from .message_types import Message, Tool
from .template import ChatTemplate

_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_LETTER = "q"
_CHANGED = "its chat template changes earlier messages when later ones come"


class Continuation:
    """How one conversation goes on. `options` are variables of the template."""

    def __init__(
        self, template: ChatTemplate, *, habits: Habits, tools: Sequence[Tool], options: Mapping[str, Any]
    ) -> None:
        self._template = template
        self._habits = habits
        self._tools = tools
        self._options = options

    def ids(self, history: Sequence[Message], new: Sequence[Message], *, ended: bool) -> list[int]:
        """The ids behind the sampled reply, which is the last message of `history`. Raises `NotContinuedError`."""
        if len(history) < 2 or history[-1]["role"] != "assistant" or not new:
            raise NotContinuedError("there must be messages before the sampled reply, and new ones behind it")
        whole = self._text([*history, *new], prompt=True)
        mark = _mark(whole)
        reply = _marked(history[-1], mark)
        before, behind = self._parted([*history[:-1], reply, *new], mark, prompt=True)
        self._check_before(history[:-1], before, [*history[:-1], reply, *new], mark)
        called = "tool_calls" in reply
        gap, end = self._end(self._parted([*history[:-1], reply], mark, prompt=True)[1], called=called)
        if not behind.startswith(gap + end):
            raise NotContinuedError("its chat template ends a reply in another way when messages come behind it")
        between = "" if ended or called else gap  # behind its mark a call is closed, which was sampled
        return self._behind(between, end, behind[len(gap) + len(end) :], ended=ended)

    def _text(self, messages: Sequence[Message], *, prompt: bool) -> str:
        return self._template.text(messages, self._tools, self._options, prompt=prompt)

    def _parted(self, messages: Sequence[Message], mark: str, *, prompt: bool) -> tuple[str, str]:
        """The text before the mark and behind it."""
        try:
            text = self._text(messages, prompt=prompt)
        except ChatRequestError as error:
            raise NotContinuedError(f"its chat template takes no other text as this reply ({error.problem})") from error
        if text.count(mark) != 1:
            raise NotContinuedError("its chat template does not render the reply as it is")
        before, _, behind = text.partition(mark)
        return before, behind

    def _check_before(self, asked: Sequence[Message], before: str, marked: Sequence[Message], mark: str) -> None:
        """Refuse unless what was asked before is rendered as it was then, but for thoughts.

        Templates that drop thoughts of earlier turns would have other ids here; the ones that were sampled, with their
        thoughts, are what the next reply follows.
        """
        if before.startswith(self._stable(asked)):
            return
        quiet = [_thoughtless(message) for message in marked]
        known = self._stable([_thoughtless(message) for message in asked])
        if not self._parted(quiet, mark, prompt=True)[0].startswith(known):
            raise NotContinuedError(_CHANGED)

    def _stable(self, asked: Sequence[Message]) -> str:
        """The text of messages alone, without what only a prompt has at its end."""
        return _common(self._text(asked, prompt=True), self._text(asked, prompt=False))

    def _end(self, behind: str, *, called: bool) -> tuple[str, str]:
        """What the template writes between a reply and its end, and that end; no text twice if it writes none."""
        found = [(behind.index(end), -len(end), end) for end in self._habits.ends if end in behind]
        if not found and called:
            raise NotContinuedError("its chat template does not end a reply that has a call")
        if not found:
            return "", ""
        at, _, end = min(found)
        return behind[:at], end

    def _behind(self, between: str, end: str, rest: str, *, ended: bool) -> list[int]:
        """Ids of the new text alone.

        A special token is cut out of the text before anything is merged, so that what is behind it has the ids that it
        would have in the whole text. It is put in front here too, since it may swallow the spaces behind it.
        """
        if not end:
            return self._exact(rest)
        ids = self._habits.ids(end + rest)
        if self._habits.text(ids[:1]) != end:
            raise NotContinuedError(f"its tokenizer has no single token for {end!r}")
        return ids[1:] if ended else self._exact(between) + ids

    def _exact(self, text: str) -> list[int]:
        """Ids of a text that no special token parts from the sampled ids: only if they add that text and no more.

        Some tokenizers put a space in front of each text, so it is tried behind another one first.
        """
        if not text:
            return []
        letter = self._habits.ids(_LETTER)
        behind = self._habits.ids(_LETTER + text)
        tried = [behind[len(letter) :]] if behind[: len(letter)] == letter else []
        for ids in (*tried, self._habits.ids(text)):
            if self._habits.text(letter + ids) == self._habits.text(letter) + text:
                return ids
        raise NotContinuedError("its tokenizer does not give back the text that comes behind a reply")


def _mark(text: str) -> str:
    mark = MARK
    while mark in text:
        mark += "z"
    return mark


def _marked(reply: Message, mark: str) -> Message:
    """The reply with a mark in place of what was said: in its last call if it has any, since that ends its text."""
    calls = reply.get("tool_calls")
    if not calls:
        return {"role": "assistant", "content": mark}
    last = calls[-1]
    text = isinstance(last["function"]["arguments"], str)
    arguments: object = f'{{"k": "{mark}"}}' if text else {"k": mark}
    marked = {**last, "function": {**last["function"], "arguments": arguments}}
    return {**reply, "tool_calls": [*calls[:-1], marked]}


def _thoughtless(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    quiet = {name: value for name, value in message.items() if name != "reasoning_content"}
    return {**quiet, "content": _THOUGHT.sub("", quiet["content"]) if quiet["content"] else quiet["content"]}


def _common(one: str, other: str) -> str:
    """What both begin with."""
    if one.startswith(other):
        return other
    differ = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[: next(differ, None)]
