"""Tools with `strict`: a schema that cannot be held is refused, and a call that does not match stays text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollstream.producer.gateway.chat import ChatFormat, ChatRequestError, checked_tools
from rollstream.producer.gateway.chat.strict_schema import check_strict, problem_of
from tests.support.chat.tokenizers import saved

NODE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["name", "next"],
    "additionalProperties": False,
}
LIST = {"$ref": "#/$defs/node", "$defs": {"node": NODE}}
SCHEMAS: list[dict[str, Any]] = [
    {},
    {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "exclusiveMaximum": 3}},
        "required": ["a"],
    },
    {"type": "object", "additionalProperties": {"type": ["string", "null"], "minLength": 1, "maxLength": 2}},
    {"properties": {"a": {"enum": ["a", None, [1]]}, "b": {"const": {"a": 1}}}, "additionalProperties": False},
    {"properties": {"a": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 2}}},
    {"allOf": [{"required": ["a"]}, {"required": ["b"]}], "description": "both"},
    LIST,
]
_LEAVES = st.none() | st.booleans() | st.integers(-1, 4) | st.sampled_from([0.5, "", "a", "abc"])
_KEYS = st.sampled_from(["a", "b", "name", "next"])
VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=8
)


@settings(max_examples=400, deadline=None)
@given(value=VALUES, schema=st.sampled_from(SCHEMAS))
def test_a_value_matches_where_jsonschema_says_so(value: Any, schema: dict[str, Any]) -> None:
    check_strict(schema, "p")

    assert (problem_of(value, schema) == "") == jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"pattern": "(a+)+$"}, "p"),
        ({"properties": {"a": {"format": "date"}}}, "p.properties.a"),
        ({"items": {"type": "int"}}, "p.items.type"),
        ({"anyOf": []}, "p.anyOf"),
        ({"anyOf": [{"oneOf": [{}]}]}, "p.anyOf[0]"),
        ({"properties": {"a": True}}, "p.properties.a"),
        ({"properties": []}, "p.properties"),
        ({"$ref": "#/$defs/none"}, "p.$ref"),
        ({"$ref": "https://example.com/x"}, "p.$ref"),
        ({"$defs": {"a": {"not": {}}}}, "p.$defs.a"),
        ({"required": [1]}, "p.required"),
        ({"minimum": "1"}, "p.minimum"),
        ({"maxItems": -1}, "p.maxItems"),
    ],
)
def test_a_schema_that_cannot_be_held_is_refused_by_its_place(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(ChatRequestError) as caught:
        check_strict(schema, "p")

    assert caught.value.param == place


def test_a_schema_without_an_end_is_ended() -> None:
    schema = {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}
    check_strict(schema, "p")

    assert problem_of({}, schema)


@pytest.mark.parametrize(("city", "calls"), [("Rome", 1), (5, 0)])
def test_a_call_that_does_not_match_a_strict_tool_stays_text_and_is_told(city: Any, calls: int, tmp_path: Path) -> None:
    form = ChatFormat.of(saved("qwen3", tmp_path))
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "f", "parameters": parameters}
    tools = checked_tools([{"type": "function", "function": {**function, "strict": True}}])
    text = f"<tool_call>{json.dumps({'name': 'f', 'arguments': {'city': city}})}</tool_call>"

    reply = form.reply(form.tokenizer(text)["input_ids"], tools)

    user = [{"role": "user", "content": "q"}]
    assert form.whole(user, tools) == form.whole(user, checked_tools([{"type": "function", "function": function}]))
    assert len(reply.tool_calls) == calls
    assert [note for note in reply.notes if "arguments.city is not of type string" in note] == list(reply.notes)
    assert len(reply.notes) == 1 - calls
