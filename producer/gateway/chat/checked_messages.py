"""Messages of a request, checked: what cannot be used is refused with its place, nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checked_tools import CALL_NAME, NAME_RULE
from .errors import ChatRequestError
from .json_values import json_object, mapping_at, sequence_at, text_at
from .message_types import MOST_CALLS, Message

MAX_MESSAGES = 4096
_FIELDS = {
    "system": {"content", "name"},
    "developer": {"content", "name"},
    "user": {"content", "name"},
    "assistant": {"content", "name", "tool_calls", "reasoning_content"},
    "tool": {"content", "name", "tool_call_id"},
}
_PARTS = {"text": "text", "refusal": "refusal"}
_OF_CALLS = {"id", "type", "function", "index"}
"""`index`: clients that put streams together leave it there; it is the call's place."""
_EMPTY: tuple[object, ...] = (None, [], {}, "")


def checked_messages(value: object, param: str = "messages") -> list[Message]:
    """The messages, each with `role` and `content` (text or None) and only what its role may have.

    Parts of text are joined by line breaks. Fields that are null or empty are left out, since clients send back whole
    messages as they got them. Raises `ChatRequestError`.
    """
    rows = sequence_at(value, param, most=MAX_MESSAGES)
    if not rows:
        raise ChatRequestError(param, "invalid_messages", "there must be at least one message")
    messages = [_message(mapping_at(row, f"{param}[{i}]"), f"{param}[{i}]") for i, row in enumerate(rows)]
    _check_answers(messages, param)
    return messages


def _message(row: Mapping[str, Any], place: str) -> Message:
    role = row.get("role")
    if role == "function" or not isinstance(role, str) or role not in _FIELDS:
        known = ", ".join(_FIELDS)
        raise ChatRequestError(f"{place}.role", "invalid_role", f"must be one of {known}, not {str(role)[:40]!r}")
    _check_fields(row, _FIELDS[role] | {"role"}, place, f"messages of role {role} cannot have it here")
    message: Message = {"role": role, "content": _content(row.get("content"), f"{place}.content")}
    for name in ("name", "reasoning_content"):
        if row.get(name) not in _EMPTY:
            message[name] = text_at(row[name], f"{place}.{name}")
    if row.get("tool_calls") not in _EMPTY:
        message["tool_calls"] = _calls(row["tool_calls"], f"{place}.tool_calls")
    if role == "tool":
        message["tool_call_id"] = text_at(row.get("tool_call_id"), f"{place}.tool_call_id")
    if message["content"] is None and "tool_calls" not in message:
        if role != "assistant":
            raise ChatRequestError(f"{place}.content", "invalid_content", f"messages of role {role} must have text")
        message["content"] = ""
    return message


def _check_fields(row: Mapping[str, Any], known: set[str], place: str, problem: str) -> None:
    for name, given in row.items():
        if name not in known and given not in _EMPTY:
            raise ChatRequestError(f"{place}.{str(name)[:80]}", "unsupported_field", problem)


def _content(value: object, place: str) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else text_at(value, place)
    parts = [_part(mapping_at(part, f"{place}[{i}]"), f"{place}[{i}]") for i, part in enumerate(_parts(value, place))]
    return "\n".join(parts)


def _parts(value: object, place: str) -> list[object]:
    if not isinstance(value, list):
        raise ChatRequestError(place, "invalid_content", "must be a text or a list of parts")
    return value


def _part(part: Mapping[str, Any], place: str) -> str:
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _PARTS:
        raise ChatRequestError(
            f"{place}.type",
            "unsupported_content",
            f"only parts of type text can be sampled here, not {str(kind)[:40]!r}",
        )
    _check_fields(part, {"type", kind}, place, "a part of text cannot have it here")
    return text_at(part.get(_PARTS[kind]), f"{place}.{_PARTS[kind]}")


def _calls(value: object, place: str) -> list[dict[str, Any]]:
    calls = []
    for i, row in enumerate(sequence_at(value, place, most=MOST_CALLS)):
        call = mapping_at(row, f"{place}[{i}]")
        if call.get("type", "function") != "function":
            raise ChatRequestError(f"{place}[{i}].type", "unsupported_tool", "must be 'function'")
        _check_fields(call, _OF_CALLS, f"{place}[{i}]", "a call cannot have it here")
        function = mapping_at(call.get("function"), f"{place}[{i}].function")
        _check_fields(function, {"name", "arguments"}, f"{place}[{i}].function", "a call's function cannot have it")
        name = text_at(function.get("name"), f"{place}[{i}].function.name")
        if not CALL_NAME.fullmatch(name):
            raise ChatRequestError(f"{place}[{i}].function.name", "invalid_tool", NAME_RULE)
        arguments = function.get("arguments", "{}")
        where = f"{place}[{i}].function.arguments"
        told = {"name": name, "arguments": dict(json_object(arguments or "{}", where))}
        calls.append({"id": text_at(call.get("id"), f"{place}[{i}].id"), "type": "function", "function": told})
    return calls


def _check_answers(messages: list[Message], param: str) -> None:
    """Each call is answered by one tool message, before anybody says anything else."""
    open_calls: list[str] = []
    for i, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                raise ChatRequestError(
                    f"{param}[{i}].tool_call_id",
                    "unknown_tool_call",
                    "no call of the assistant message before it has this id and is still to be answered",
                )
            open_calls.remove(message["tool_call_id"])
        else:
            _check_none_open(open_calls, f"{param}[{i}]")
            open_calls = [call["id"] for call in message.get("tool_calls", ())]
    _check_none_open(open_calls, param)


def _check_none_open(open_calls: list[str], place: str) -> None:
    if open_calls:
        raise ChatRequestError(
            place, "unanswered_tool_call", f"a tool message must answer the call {open_calls[0][:80]!r} first"
        )
