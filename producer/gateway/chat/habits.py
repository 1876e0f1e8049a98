"""What a chat template does with messages, found out by asking it: how replies end, how calls and roles are written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .errors import ChatRequestError
from .message_types import Message, Tool
from .template import ChatTemplate

MARK = "rEpLy7x0q"
"""A text that no template has, trims or changes."""
_ALIKE = 3
"""Characters at the beginning of special tokens by which they are told apart first."""
_USER: Message = {"role": "user", "content": "q"}
_REPLY: Message = {"role": "assistant", "content": MARK}
_TOOL: Tool = {
    "type": "function",
    "function": {"name": MARK, "description": "d", "parameters": {"type": "object", "properties": {}}},
}


@dataclass(frozen=True, kw_only=True)
class Habits:
    """`ends` are the texts that end a turn, `end_ids` their ids, `stop_ids` those at which a reply is over: some models
    end a part of it as they end a turn, and a whole reply in another way. `call_style` is how a call is given to the
    template (None: it has no place for calls), `roles` which roles it renders, `tools` whether it renders tools,
    `special` the tokens that nobody is shown.
    """

    tokenizer: Any
    ends: tuple[str, ...]
    end_ids: frozenset[int]
    stop_ids: frozenset[int]
    call_style: tuple[type, str | None] | None
    roles: frozenset[str]
    tools: bool
    special: tuple[str, ...]

    @classmethod
    def of(cls, template: ChatTemplate, tokenizer: Any, eos_ids: Iterable[int]) -> Habits:
        """Ask the template. Raises `ChatRequestError` if it does not even render a question and its reply."""
        end, last = _ends(template, tokenizer)
        eos = _named_eos(template, tokenizer, eos_ids)
        ends = tuple(dict.fromkeys([*end, *eos]))
        style = _call_style(template)
        return cls(
            tokenizer=tokenizer,
            ends=ends,
            end_ids=frozenset(tokenizer.convert_tokens_to_ids(list(ends))),
            stop_ids=frozenset(tokenizer.convert_tokens_to_ids([*eos, *last])),
            call_style=style,
            roles=_roles(template, style),
            tools=MARK in (rendered(template, [_USER], [_TOOL]) or ""),
            special=tuple(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special),
        )

    def check(self, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
        """Refuse what the template would leave out in silence. Raises `ChatRequestError`."""
        if tools and not self.tools:
            raise ChatRequestError("tools", "unsupported_parameter", "this chat template has no place for tools")
        for i, message in enumerate(messages):
            role = self._role(message["role"])
            if role not in self.roles:
                raise ChatRequestError(
                    f"messages[{i}].role", "invalid_role", f"this chat template has no place for role {role}"
                )
            if message.get("tool_calls") and self.call_style is None:
                raise ChatRequestError(
                    f"messages[{i}].tool_calls",
                    "unsupported_field",
                    "this chat template has no place for calls",
                )

    def told(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as this template wants them."""
        return [self._told(message) for message in messages]

    def ids(self, text: str) -> list[int]:
        """Text of a template as ids: BOS and the like are there if the template put them there."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text, with special tokens and spaces as they are."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def plain(self, text: str) -> str:
        """Text without special tokens, as a client sees it."""
        return self._hidden.sub("", text)

    @cached_property
    def _hidden(self) -> re.Pattern[str]:
        """Any special token, the longest first. Those that begin alike are tried together: a text may be all `<`."""
        groups: dict[str, list[str]] = {}
        for token in sorted(self.special, key=len, reverse=True):
            groups.setdefault(token[:_ALIKE], []).append(re.escape(token[_ALIKE:]))
        listed = sorted(groups.items(), key=lambda group: len(group[0]), reverse=True)
        return re.compile("|".join(f"{re.escape(begin)}(?:{'|'.join(ends)})" for begin, ends in listed) or r"(?!)")

    def _role(self, role: str) -> str:
        return "system" if role == "developer" and "developer" not in self.roles else role

    def _told(self, message: Message) -> Message:
        told = {**message, "role": self._role(message["role"])}
        if "tool_calls" in told and self.call_style is not None:
            told["tool_calls"] = [_styled(call, self.call_style[0]) for call in told["tool_calls"]]
            told["content"] = told["content"] or self.call_style[1]
        return told


def _ends(template: ChatTemplate, tokenizer: Any) -> tuple[list[str], list[str]]:
    """The token that the template puts behind a reply, and the one behind a reply that is last; none if it has none.

    What begins the next turn is not taken for it: it differs with who speaks, or is missing when nobody does.
    """
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    followed = _token_behind(template.text([_USER, _REPLY, _USER], prompt=False), added)
    prompted = _token_behind(template.text([_USER, _REPLY], prompt=True), added)
    alone = _token_behind(template.text([_USER, _REPLY], prompt=False), added)
    found = followed is not None and followed == prompted and alone is not None
    return ([str(followed)], [str(alone)]) if found else ([], [])


def _named_eos(template: ChatTemplate, tokenizer: Any, eos_ids: Iterable[int]) -> list[str]:
    """EOS tokens that the template writes: `<|endoftext|>` alone, which ends documents, ends no turn."""
    told = tokenizer.convert_ids_to_tokens([id for id in eos_ids if 0 <= id < len(tokenizer)])
    written = template.source() + template.text([_USER, _REPLY, _USER], prompt=True)
    return [token for token in dict.fromkeys([tokenizer.eos_token, *told]) if token and token in written]


def _token_behind(text: str, added: Sequence[str]) -> str | None:
    """The added token that comes next behind the mark, spaces left aside."""
    before, mark, behind = text.partition(MARK)
    if not mark or MARK in before + behind:
        raise ChatRequestError("chat template", "unusable", "does not render a reply of text as it is")
    return next((token for token in added if token and behind.lstrip().startswith(token)), None)


def call_of(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A call as checked messages have it; its id is one that Mistral's templates accept too."""
    return {"id": "abcdefghi", "type": "function", "function": {"name": name, "arguments": arguments}}


def _call_style(template: ChatTemplate) -> tuple[type, str | None] | None:
    """Arguments as an object or as text, and empty content as no text or as null: whatever the template renders."""
    for content in ("", None):
        for kind in (dict, str):
            call = _styled(call_of("f", {"k": MARK}), kind)
            reply = {"role": "assistant", "content": content, "tool_calls": [call]}
            answer = {"role": "tool", "content": "a", "name": "f", "tool_call_id": call["id"]}
            text = rendered(template, [_USER, reply, answer]) or ""
            if MARK in text and "None" not in text and "{'" not in text and '\\"' not in text:
                return kind, content
    return None


def _styled(call: dict[str, Any], kind: type) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    told = arguments if kind is dict else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": told}}


def _roles(template: ChatTemplate, style: tuple[type, str | None] | None) -> frozenset[str]:
    """Roles whose text is in what the template renders."""
    said = {role: {"role": role, "content": MARK} for role in ("system", "developer", "user", "assistant")}
    asked = {
        "system": [said["system"], _USER],
        "developer": [said["developer"], _USER] if "developer" in template.source() else None,
        "user": [said["user"]],
        "assistant": [_USER, said["assistant"], _USER],
        "tool": tool_messages(style),
    }
    return frozenset(
        role for role, messages in asked.items() if messages and MARK in (rendered(template, messages) or "")
    )


def tool_messages(style: tuple[type, str | None] | None) -> list[Message] | None:
    """A call and its answer, a mark; None where the template has no place for calls."""
    if style is None:
        return None
    call = _styled(call_of("f", {"k": "v"}), style[0])
    reply = {"role": "assistant", "content": style[1], "tool_calls": [call]}
    return [_USER, reply, {"role": "tool", "content": MARK, "name": "f", "tool_call_id": call["id"]}]


def rendered(template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str | None:
    """The prompt that these messages are; None where the template refuses them."""
    try:
        return template.text(messages, tools, prompt=True)
    except ChatRequestError:
        return None
