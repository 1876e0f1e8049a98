"""The grammar of a strict tool's arguments: whatever it writes, the schema takes; what it cannot hold is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from rollstream.producer.gateway.chat import ChatRequestError, checked_tools
from rollstream.producer.gateway.chat.choices import forced_call
from rollstream.producer.gateway.chat.integer_ranges import integers
from rollstream.producer.gateway.chat.parsers import parser_named
from rollstream.producer.gateway.chat.schema_grammar import SchemaRules
from rollstream.producer.gateway.chat.strict_schema import problem_of

xgrammar = pytest.importorskip("xgrammar")
LETTERS = [chr(code) for code in range(32, 127)] + ["\n", "é", "\U0001f600"]
NODE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 3}, "next": {"anyOf": [{"$ref": "#/$defs/node"},
                                                                                 {"type": "null"}]}},
    "required": ["name", "next"],
    "additionalProperties": False,
}  # fmt: skip
SCHEMAS: list[tuple[dict[str, Any], Any]] = [
    ({}, {"a": [1.5, None, {}]}),
    ({"type": "object", "properties": {}, "additionalProperties": False}, {}),
    ({"type": "object", "required": ["a", 'b "c"\\'], "additionalProperties": {"type": "boolean"}},
     {"a": True, 'b "c"\\': False}),
    ({"properties": {"a": {"type": "integer"}, "b": {"type": ["string", "null"], "minLength": 1, "maxLength": 2},
                     "c": {"type": "boolean"}}, "required": ["b"]}, {"b": "xé", "c": True}),
    ({"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "additionalProperties": False}, {"b": 7}),
    ({"type": "object", "additionalProperties": {"type": "number"}}, {"x": -1.5e3, "y": 0}),
    ({"properties": {"a": {"enum": ["a", 'q"\\', None, [1, {"x": 2}], 3]}, "b": {"const": {"é": 1}}},
      "required": ["a", "b"], "additionalProperties": False}, {"a": 'q"\\', "b": {"é": 1}}),
    ({"properties": {"a": {"enum": ["x", 1], "type": "string"}}, "required": ["a"]}, {"a": "x"}),
    ({"properties": {"a": {"type": "array", "items": {"type": "integer", "minimum": -3, "exclusiveMaximum": 12},
                           "minItems": 1, "maxItems": 3}}, "required": ["a"]}, {"a": [-3, 11]}),
    ({"properties": {"a": {"type": "array", "maxItems": 1}, "b": {"type": "array", "maxItems": 0},
                     "c": {"type": "array", "minItems": 2}}, "required": ["a", "b", "c"]},
     {"a": [], "b": [], "c": [1, "x"]}),
    ({"type": "object", "properties": {"node": {"$ref": "#/$defs/node"}}, "required": ["node"],
      "$defs": {"node": NODE}}, {"node": {"name": "a", "next": {"name": "b", "next": None}}}),
    ({"type": "object", "properties": {"of": {"anyOf": [{"$ref": "#"}, {"allOf": [{"type": "null"}]}]}},
      "required": ["of"], "additionalProperties": False}, {"of": {"of": None}}),
]  # fmt: skip
"""Schemas, and a value that each takes."""


def grammar_of(schema: dict[str, Any]) -> str:
    rules = SchemaRules()
    root = rules.arguments(schema, "p")
    return f"root ::= {root}\n{rules.text}"


def compiled(grammar: str) -> Any:
    letters = [letter.encode() for letter in LETTERS] + [b""]
    known = xgrammar.TokenizerInfo(letters, xgrammar.VocabType.RAW, stop_token_ids=[len(LETTERS)])
    return xgrammar.GrammarCompiler(known, max_threads=1).compile_grammar(xgrammar.Grammar.from_ebnf(grammar))


def allows(guide: Any, text: str) -> bool:
    matcher = xgrammar.GrammarMatcher(guide)
    return bool(matcher.accept_string(text) and matcher.accept_token(len(LETTERS)))


def written(guide: Any, chance: random.Random, most: int = 400) -> str | None:
    """A text that the grammar allows, letter by letter by chance; None if it has no end within so many."""
    matcher, mask = xgrammar.GrammarMatcher(guide), xgrammar.allocate_token_bitmask(1, len(LETTERS) + 1)
    text = ""
    for _ in range(most):
        matcher.fill_next_token_bitmask(mask)
        allowed = [one for one in range(len(LETTERS) + 1) if int(mask[0][one // 32]) >> one % 32 & 1]
        closing = [one for one in allowed if one < len(LETTERS) and LETTERS[one] in '"]}']
        one = chance.choice(closing if closing and chance.random() < 0.5 else allowed)
        assert matcher.accept_token(one)
        if one == len(LETTERS):
            return text
        text += LETTERS[one]
    return None


@pytest.mark.parametrize(("schema", "value"), SCHEMAS)
def test_what_is_written_fits_the_schema_and_what_fits_can_be_written(schema: dict[str, Any], value: Any) -> None:
    guide, chance = compiled(grammar_of(schema)), random.Random(0)

    texts = [written(guide, chance) for _ in range(30)]

    assert sum(text is not None for text in texts) >= 5
    for text in filter(None, texts):
        found = json.loads(text)
        assert isinstance(found, dict)
        assert problem_of(found, schema) == "", text
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    assert problem_of(value, schema) == ""
    assert allows(guide, json.dumps(value, ensure_ascii=False))


def ranges() -> Iterator[tuple[int | None, int | None]]:
    bounds = [None, -1000, -101, -10, -9, -1, 0, 1, 5, 9, 10, 19, 99, 100, 101, 250, 1000]
    return ((low, high) for low in bounds for high in bounds)


def test_integers_between_two_bounds_are_all_allowed_and_no_others() -> None:
    from xgrammar.testing import _is_grammar_accept_string

    near = [-1001, -1000, -999, -102, -101, -11, -10, -2, -1, 0, 1, 4, 6, 9, 10, 11, 18, 20, 99, 100, 249, 251, 1001]
    for low, high in ranges():
        expression = integers(low, high)
        if not expression:
            assert (low or 0) > (high or 0)
            continue
        grammar = xgrammar.Grammar.from_ebnf(f"root ::= {expression}")
        for one in near:
            is_within = (low is None or low <= one) and (high is None or one <= high)
            assert _is_grammar_accept_string(grammar, str(one)) is is_within, (low, high, one)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "array"}, "p"),
        ({"anyOf": [{"type": "object"}]}, "p"),
        ({"properties": {"a": {"type": "number", "minimum": 1}}}, "p.properties.a"),
        ({"properties": {"a": {"type": "string", "anyOf": [{"minLength": 1}]}}}, "p.properties.a"),
        ({"properties": {"a": {"allOf": [{}, {}]}}}, "p.properties.a"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"$ref": "#/$defs/b"}}}, "p.properties.a"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}},
          "$defs": {"b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]}}}, "p.properties.a.anyOf[1]"),
        ({"properties": {"a": {"enum": [1], "type": "string"}}}, "p.properties.a"),
        ({"properties": {"a": {"type": "integer", "minimum": 2, "maximum": 1}}}, "p.properties.a"),
        ({"properties": {"a": {"minimum": float("inf")}}}, "p.properties.a"),
        ({"properties": {"a": {"maxLength": 100_000}}}, "p.properties.a"),
        ({"properties": {"a": {"minItems": 2, "maxItems": 1}}}, "p.properties.a"),
        ({"required": ["a"], "additionalProperties": False}, "p"),
        ({"properties": {"a": {"$ref": "#/$defs/0"}}, "$defs": {
            str(i): {"properties": {"a": {"$ref": f"#/$defs/{i + 1}"}}} for i in range(900)} | {"900": {}}}, "p"),
    ],
)  # fmt: skip
def test_what_no_grammar_holds_is_refused_with_its_place(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(ChatRequestError, match="forced call") as caught:
        SchemaRules().arguments(schema, "p")

    assert caught.value.param == place


def test_each_tool_has_the_arguments_of_its_own_schema_and_what_is_too_long_is_refused() -> None:
    def tool(name: str, kind: str, **more: Any) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"x": {"type": kind}}, "required": ["x"]}
        return {"type": "function", "function": {"name": name, "parameters": schema, **more}}

    tools = checked_tools([tool("a", "integer", strict=True), tool("b", "string", strict=True), tool("c", "null")])
    guide = forced_call("required", tools, parser_named("llama3", ""))
    assert guide is not None
    assert guide.grammar is not None
    compiled_guide = compiled(guide.grammar)
    for name, arguments, fits in [
        ("a", '{"x": 1}', True), ("a", '{"x": "1"}', False), ("a", "{}", False),
        ("b", '{"x": "1"}', True), ("b", '{"x": 1}', False), ("c", '{"y": 1e5}', True), ("c", "5", False),
    ]:  # fmt: skip
        text = f'{{"name": "{name}", "parameters": {arguments}}}'
        assert allows(compiled_guide, text) is fits, text

    many = {"type": "object", "properties": {"x": {"enum": [f"{i:040}" for i in range(2000)]}}}
    long = checked_tools([{"type": "function", "function": {"name": "a", "parameters": many, "strict": True}}])
    with pytest.raises(ChatRequestError, match="characters") as caught:
        forced_call("required", long, parser_named("llama3", ""))
    assert caught.value.param == "tools"
