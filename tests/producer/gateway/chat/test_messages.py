"""Messages and tools of a request are checked: what cannot be used is refused by its place."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream.producer.gateway.chat import ChatRequestError, checked_messages, checked_tools

CALL: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "ü"}'}}
USER = {"role": "user", "content": "q"}
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (USER, USER),
        ({"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "ü"}]},
         {"role": "system", "content": "a\nü"}),
        ({"role": "user", "content": "q", "name": "Ann"}, {"role": "user", "content": "q", "name": "Ann"}),
        ({"role": "developer", "content": "s"}, {"role": "developer", "content": "s"}),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "content": "a", "refusal": None, "annotations": [], "audio": None, "function_call": None,
          "tool_calls": []}, {"role": "assistant", "content": "a"}),
        ({"role": "assistant", "content": "a", "reasoning_content": "t"},
         {"role": "assistant", "content": "a", "reasoning_content": "t"}),
    ],
)  # fmt: skip
def test_a_message_is_taken(given: Any, taken: Any) -> None:
    assert checked_messages([given]) == [taken]


def test_calls_and_their_answers_are_taken() -> None:
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2", "index": 1, "extra": None}]},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "1"}], "name": "f"},
    ]

    taken = checked_messages(messages)

    assert taken[1]["content"] is None
    assert [call["function"]["arguments"] for call in taken[1]["tool_calls"]] == [{"a": "ü"}] * 2
    assert taken[3] == {"role": "tool", "tool_call_id": "c1", "content": "1", "name": "f"}


@pytest.mark.parametrize(
    ("messages", "param", "problem"),
    [
        (None, "messages", "must be a list"),
        ([], "messages", "at least one"),
        ([USER] * 4097, "messages", "more than 4,096"),
        (["q"], "messages[0]", "must be an object"),
        ([{"content": "q"}], "messages[0].role", "one of system"),
        ([{"role": "function", "content": "q"}], "messages[0].role", "not 'function'"),
        ([{"role": ["user"], "content": "q"}], "messages[0].role", "one of"),
        ([USER, {"role": "user"}], "messages[1].content", "must have text"),
        ([{"role": "user", "content": 1}], "messages[0].content", "a text or a list"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content", "surrogate"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
         "messages[0].content[0].type", "not 'image_url'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "must be text"),
        ([{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}],
         "messages[0].content[0].cache_control", "cannot have it"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "extra_content": {"a": 1}}]}],
         "messages[0].tool_calls[0].extra_content", "cannot have it"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "function": {**CALL["function"], "strict": True}}]}],
         "messages[0].tool_calls[0].function.strict", "cannot have it"),
        ([{**USER, "tool_calls": [CALL]}], "messages[0].tool_calls", "role user"),
        ([{**USER, "weight": 1}], "messages[0].weight", "cannot have it"),
        ([{**USER, "name": 3}], "messages[0].name", "must be text"),
        ([{**USER, "extra": deep(100)}], "messages[0]", "deeper than 64"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}], "messages[0].tool_calls[0].type", "fun"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "id": None}]}], "messages[0].tool_calls[0].id", "text"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "a b"}}]}],
         "messages[0].tool_calls[0].function.name", "letters"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]}],
         "messages[0].tool_calls[0].function.arguments", "an object of JSON"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"a": NaN}'}}]}],
         "messages[0].tool_calls[0].function.arguments", "an object of JSON"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"a": "\\ud800"}'}}]}],
         "messages[0].tool_calls[0].function.arguments", "surrogate"),
        ([{"role": "assistant", "tool_calls": [CALL] * 129}], "messages[0].tool_calls", "more than 128"),
        ([{"role": "tool", "content": "1"}], "messages[0].tool_call_id", "must be text"),
        ([USER, {"role": "tool", "tool_call_id": "c1", "content": "1"}], "messages[1].tool_call_id", "no call"),
        ([USER, {"role": "assistant", "tool_calls": [CALL]}], "messages", "'c1'"),
        ([USER, {"role": "assistant", "tool_calls": [CALL]}, USER], "messages[2]", "'c1'"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_by_its_place(messages: Any, param: str, problem: str) -> None:
    with pytest.raises(ChatRequestError) as caught:
        checked_messages(messages)

    assert caught.value.param == param
    assert problem in caught.value.problem


def test_tools_are_taken_in_one_order_of_fields() -> None:
    told = {"parameters": {"type": "object", "properties": {}}, "description": "d", "name": "f", "strict": None}

    (tool,) = checked_tools([{"function": told, "type": "function", "strict": None}])

    assert list(tool["function"]) == ["name", "description", "parameters"]
    assert tool == TOOL


def test_a_tool_without_parameters_takes_none() -> None:
    (tool,) = checked_tools([{"type": "function", "function": {"name": "f"}}])

    assert tool["function"] == {"name": "f", "parameters": {"type": "object", "properties": {}}}
    assert checked_tools(None) == []


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ({}, "tools"),
        ([TOOL] * 129, "tools"),
        ([{"type": "web_search"}], "tools[0]"),
        ([{**TOOL, "more": 1}], "tools[0]"),
        ([{"type": "function", "function": "f"}], "tools[0].function"),
        ([{"type": "function", "function": {"name": "a b"}}], "tools[0].function.name"),
        ([{"type": "function", "function": {**FUNCTION, "strict": "yes"}}], "tools[0].function.strict"),
        (
            [{"type": "function", "function": {**FUNCTION, "strict": True, "parameters": {"pattern": "a"}}}],
            "tools[0].function.parameters",
        ),
        ([{"type": "function", "function": {**FUNCTION, "more": 1}}], "tools[0].function.more"),
        ([{"type": "function", "function": {**FUNCTION, "parameters": [1]}}], "tools[0].function.parameters"),
        ([{"type": "function", "function": {**FUNCTION, "description": 1}}], "tools[0].function.description"),
        ([TOOL, TOOL], "tools[1].function.name"),
        (
            [{"type": "function", "function": {**FUNCTION, "parameters": {"a": ["\ud800"]}}}],
            "tools[0].function.parameters",
        ),
        ([{"type": "function", "function": {**FUNCTION, "parameters": {"\ud800": 1}}}], "tools[0].function.parameters"),
    ],
)
def test_what_is_no_tool_is_refused_by_its_place(tools: Any, param: str) -> None:
    with pytest.raises(ChatRequestError) as caught:
        checked_tools(tools)

    assert caught.value.param == param
