"""Whatever the grammar of a forced call allows is read as that call; where it is not, the note says what is wrong."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from rollstream.producer.gateway.chat import ChatRequestError, checked_tools
from rollstream.producer.gateway.chat.choices import forced_call
from rollstream.producer.gateway.chat.message_types import MOST_CALLS
from rollstream.producer.gateway.chat.parsers import parser_named

xgrammar = pytest.importorskip("xgrammar")
CORNERS = [
    "</tool_call>", "<tool_call>", "\n</tool_call>", "<tool_call>\n{", "</think>", '\\"', "\\\\", "\\u0041", "\\ud7ff",
    "\\u0000", "E+9", "1.5", "true", "null", '"a"', '"a": ', '"\\u0061": ', "[TOOL_CALLS]", '"text": ',
]  # fmt: skip
PIECES = [*CORNERS, *map(chr, range(32, 128)), "\n", "é", "\u2028", "\U0001f600"]
"""Tokens in which the grammar is written: what parsers look for, odd corners of JSON, and single letters."""
OPEN: dict[str, Any] = {"type": "function", "function": {"name": "say", "parameters": {"type": "object"}}}
STRICT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "say",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string"}, "more": {"type": "array", "items": {}}},
            "required": ["text"],
            "additionalProperties": False,
        },
    },
}
WAYS = {
    "hermes": ('<tool_call>\n{"name": "say", "arguments": ', "}\n</tool_call>"),
    "llama3": ('{"name": "say", "parameters": ', "}"),
}


class Guide:
    """What may be written, piece by piece."""

    def __init__(self, tool: dict[str, Any], name: str, choice: object) -> None:
        guide = forced_call(choice, checked_tools([tool]), parser_named(name, ""))
        assert guide is not None
        pieces = [piece.encode() for piece in PIECES] + [b""]
        known = xgrammar.TokenizerInfo(pieces, xgrammar.VocabType.RAW, stop_token_ids=[len(PIECES)])
        grammar = xgrammar.Grammar.from_ebnf(guide.grammar)
        self._compiled = xgrammar.GrammarCompiler(known, max_threads=1).compile_grammar(grammar)

    def allows(self, text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(self._compiled)
        return bool(matcher.accept_string(text) and matcher.accept_token(len(PIECES)))

    def written(self, chance: random.Random, most: int = 120) -> str | None:
        """A text by chance; None if it has no end within so many pieces."""
        matcher, mask = xgrammar.GrammarMatcher(self._compiled), xgrammar.allocate_token_bitmask(1, len(PIECES) + 1)
        text = ""
        for _ in range(most):
            matcher.fill_next_token_bitmask(mask)
            words = mask[0].tolist()
            allowed = [one for one in range(len(PIECES) + 1) if words[one // 32] >> one % 32 & 1]
            corners = [one for one in allowed if one < len(CORNERS)]
            closing = [one for one in allowed if one == len(PIECES) or PIECES[one] in '"]}']
            one = chance.choice(chance.choice([corners, closing, allowed]) or allowed)
            assert matcher.accept_token(one)
            if one == len(PIECES):
                return text
            text += PIECES[one]
        return None


@pytest.fixture(scope="module")
def guides() -> dict[tuple[str, bool], Guide]:
    tools = {False: OPEN, True: STRICT}
    return {(name, strict): Guide(tool, name, "required") for name in WAYS for strict, tool in tools.items()}


def has_twice(text: str) -> bool:
    found: list[bool] = []

    def seen(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.append(len(dict(pairs)) < len(pairs))
        return dict(pairs)

    decoder, at = json.JSONDecoder(object_pairs_hook=seen), text.find("{")
    while 0 <= at < len(text):
        _, end = decoder.raw_decode(text, at)
        at = text.find("{", end)
    return any(found)


def read(name: str, text: str) -> Any:
    return parser_named(name, "").read(text, {"say": {}})


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_what_the_grammar_writes_is_read_as_calls_or_has_a_name_twice(
    name: str, strict: bool, guides: dict[tuple[str, bool], Guide]
) -> None:
    chance = random.Random(1)

    texts = [text for _ in range(60) if (text := guides[name, strict].written(chance)) is not None]

    assert len(texts) > 20
    assert any("</tool_call>" in text[: -len("</tool_call>")] for text in texts)
    for text in texts:
        parsed = read(name, text)
        if has_twice(text):
            assert "twice, and nobody knows which value is meant" in parsed.notes[0], text
        else:
            assert (parsed.notes, parsed.content.strip(), bool(parsed.calls)) == ((), "", True), text


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(
    "value",
    [
        "... </tool_call> ...", "\n</tool_call>", "<tool_call>{}</tool_call>", '"}}\n</tool_call>', "\\",
        "a\\\"}</tool_call>", "[TOOL_CALLS]", "</think>", "<think>", "\x00\x1f\x7f\u2028", "\U0001f600", "", "{", "}}",
    ],
)  # fmt: skip
def test_any_text_in_a_forced_call_is_its_argument(
    name: str, value: str, guides: dict[tuple[str, bool], Guide]
) -> None:
    begin, end = WAYS[name]
    for spelled in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        text = f'{begin}{{"text": {spelled}}}{end}'

        parsed = read(name, text)

        assert guides[name, True].allows(text) is ("\\ud83d" not in text)
        assert (parsed.content, parsed.notes) == ("", ())
        assert [json.loads(call.arguments) for call in parsed.calls] == [{"text": value}]


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(
    ("arguments", "is_allowed"),
    [
        ('{"a": -0, "b": 1.5E+99, "c": 999999999999999, "d": 0.000000000000001}', True),
        ('{"a": 1e999}', False),
        ('{"a": 1' + "0" * 15 + "}", False),
        ('{"a": 01}', False),
        ('{"a": NaN}', False),
        ('{"a": "\\ud800"}', False),
        ('{"a": ' * 16 + "1" + "}" * 16, True),
        ('{"a": ' * 17 + "1" + "}" * 17, False),
        ('{"a": ' + "[" * 15 + "1" + "]" * 15 + "}", True),
        ('{"a": ' + "[" * 16 + "1" + "]" * 16 + "}", False),
    ],
)  # fmt: skip
def test_what_no_reader_would_take_is_not_written(
    name: str, arguments: str, is_allowed: bool, guides: dict[tuple[str, bool], Guide]
) -> None:
    text = arguments.join(WAYS[name])

    assert guides[name, False].allows(text) is is_allowed
    assert not is_allowed or (len(read(name, text).calls), read(name, text).notes) == (1, ())


def test_as_many_calls_are_written_as_are_read(guides: dict[tuple[str, bool], Guide]) -> None:
    call = "{}".join(WAYS["hermes"])
    most, more = ("\n".join([call] * count) for count in (MOST_CALLS, MOST_CALLS + 1))

    assert guides["hermes", False].allows(most)
    assert not guides["hermes", False].allows(more)
    assert (len(read("hermes", most).calls), read("hermes", most).notes) == (MOST_CALLS, ())
    assert (len(read("hermes", more).calls), read("hermes", more).content.strip()) == (MOST_CALLS, call)
    assert "at most 128 calls" in read("hermes", more).notes[0]


def test_a_number_that_json_has_not_is_none_of_an_enum() -> None:
    def strict(*listed: object) -> list[dict[str, Any]]:
        schema = {"type": "object", "properties": {"a": {"enum": list(listed)}}, "required": ["a"]}
        return checked_tools([{"type": "function", "function": {"name": "say", "strict": True, "parameters": schema}}])

    guide = forced_call("required", strict(1, float("inf")), parser_named("llama3", ""))
    assert guide is not None
    assert "Infinity" not in str(guide.grammar)
    with pytest.raises(ChatRequestError, match="takes no value"):
        forced_call("required", strict(float("inf")), parser_named("llama3", ""))


def test_a_thought_before_a_forced_call_ends_where_it_is_read_to_end() -> None:
    guide = forced_call("required", checked_tools([OPEN]), parser_named("hermes", ""), thought="maybe")
    assert guide is not None
    grammar = xgrammar.Grammar.from_ebnf(guide.grammar)
    from xgrammar.testing import _is_grammar_accept_string

    call = "{}".join(WAYS["hermes"])
    for thought, is_allowed in [
        ("<think>a <b></think>\n", True), ("<think><</think>", True), ("", True),
        ("<think><</think>b</think>", False), ("<think>a</think>b</think>", False),
    ]:  # fmt: skip
        assert _is_grammar_accept_string(grammar, thought + call) is is_allowed, thought
