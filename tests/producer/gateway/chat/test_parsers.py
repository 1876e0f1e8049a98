"""Calls that models write are read; whatever is no whole call of a known tool stays text, and is told."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollstream.producer.gateway.chat.message_types import MOST_CALLS
from rollstream.producer.gateway.chat.parsers import NAMES, FoundCall, parser_named
from tests.support.chat.replies import CALLS
from tests.support.chat.tokenizers import FAMILIES, TEMPLATES

KNOWN: dict[str, dict[str, Any]] = {
    "weather": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    "add": {"type": "object", "properties": {}},
}
ROME = FoundCall("weather", '{"city": "Rom ü"}')
BAR = "\uff5c"
V31 = (
    f"<{BAR}tool▁calls▁begin{BAR}><{BAR}tool▁call▁begin{BAR}>weather<{BAR}tool▁sep{BAR}>"
    f'{{"city": "Rom ü"}}<{BAR}tool▁call▁end{BAR}><{BAR}tool▁calls▁end{BAR}>'
)
CODER = "<tool_call>\n<function=weather>\n<parameter=city>\nRom ü\n</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_read(name: str) -> None:
    parsed = parser_named(name, "").read(CALLS[name], KNOWN)

    assert (parsed.content.strip(), parsed.calls, parsed.notes) == ("", (ROME,), ())


@pytest.mark.parametrize(
    ("name", "text", "content", "calls"),
    [
        ("hermes", "Hi {} <tool> </tool_call>", "Hi {} <tool> </tool_call>", ()),
        ("hermes", f"I look.\n{CALLS['hermes']}\n{CALLS['hermes']}", "I look.\n\n", (ROME, ROME)),
        ("hermes", CALLS["hermes"].removesuffix("\n</tool_call>"), "", (ROME,)),
        ("hermes", '<tool_call>{"name": "add", "arguments": {}}</tool_call>', "", (FoundCall("add", "{}"),)),
        ("llama3", f"<|python_tag|>{CALLS['llama3']}", "", (ROME,)),
        ("llama3", f"{CALLS['llama3']}; {CALLS['llama3']}", "", (ROME, ROME)),
        ("llama3", f"I look: {CALLS['llama3']}", f"I look: {CALLS['llama3']}", ()),
        ("llama3", '{"name": "add", "arguments": {"a": 1}}', "", (FoundCall("add", '{"a": 1}'),)),
        ("llama3", '{"type": "function", "name": "add", "parameters": {}}', "", (FoundCall("add", "{}"),)),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "add", "arguments": {}, "id": "a1b2c3d4e"}]',
            "",
            (FoundCall("add", "{}"),),
        ),
        ("mistral", '[TOOL_CALLS]weather[ARGS]{"city": "Rom ü"}', "", (ROME,)),
        ("mistral", '[TOOL_CALLS]weather{"city": "Rom ü"}[TOOL_CALLS]add{}', "", (ROME, FoundCall("add", "{}"))),
        ("mistral", "Bonjour.", "Bonjour.", ()),
        ("deepseek", f"I look.{V31}", "I look.", (ROME,)),
        ("deepseek", "Hi.", "Hi.", ()),
        ("harmony", "<|channel|>final<|message|>Hi.", "Hi.", ()),
        ("harmony", "Hi.", "Hi.", ()),
        ("qwen3-coder", f"I look.\n{CODER}", "I look.\n", (ROME,)),
        ("none", CALLS["hermes"], CALLS["hermes"], ()),
        ("harmony", "<|start|>assistant<|channel|>final<|message|>a<|end|><|start|>b", "a\nb", ()),
    ],
)
def test_text_and_calls_are_told_apart(name: str, text: str, content: str, calls: tuple[FoundCall, ...]) -> None:
    assert parser_named(name, "").read(text, KNOWN)[:3] == (content, calls, ())


@pytest.mark.parametrize("name", sorted(set(CALLS)))
@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("weather", "wether", "'wether'"),
        ('{"city": "Rom ü"}', '{"city": "Rom ü"', "no JSON"),
        ('{"city": "Rom ü"}', '{"city": NaN}', "no JSON"),
        ('{"city": "Rom ü"}', "[1]", "no object"),
        ('{"city": "Rom ü"}', '{"city": 1e999}', "nothing that a request can have"),
        ('{"city": "Rom ü"}', '{"city": "\\ud800"}', "nothing that a request can have"),
        ('{"city": "Rom ü"}', "[" * 70 + "]" * 70, "no object"),
        ('{"city": "Rom ü"}', '{"a":' * 70 + "1" + "}" * 70, "nested deeper than a request"),
        ('{"city": "Rom ü"}', "[" * 100_000, "nested too deep"),
        ('{"city": "Rom ü"}', '{"city": ' + "7" * 5000 + "}", "more digits"),
    ],
    ids=["unknown", "cut", "nan", "list", "infinite", "half a pair", "deep list", "deep", "very deep", "long number"],
)
def test_what_is_no_call_stays_text_and_is_told(name: str, old: str, new: str, note: str) -> None:
    text = CALLS[name].replace(old, new)
    assert text != CALLS[name]

    parsed = parser_named(name, "").read(text, KNOWN)

    assert parsed.calls == ()
    assert new in parsed.content
    assert len(parsed.notes) == 1
    assert note in parsed.notes[0] or "no JSON" in parsed.notes[0]


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("hermes", '<tool_call>{"name": "add"}</tool_call>', "it has no 'arguments'"),
        ("hermes", '<tool_call>{"name": "add", "parameters": {"a": 1}}</tool_call>', "it has no 'arguments'"),
        ("hermes", '<tool_call>{"name": "add", "args": {"a": 1}}</tool_call>', "it has no 'arguments'"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {}, "a": 1}</tool_call>', "has no 'a' beside"),
        (
            "hermes",
            '<tool_call>{"name": "add", "arguments": {"a": 1}, "arguments": {}}</tool_call>',
            "twice, and nobody knows",
        ),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1, "a": 2}}</tool_call>', "twice, and nobody knows"),
        ("llama3", '{"name": "add", "a": 1}', "it has no 'parameters'"),
        ("llama3", '{"name": "add", "parameters": {}, "arguments": {}}', "has no 'parameters' beside"),
        ("llama3", '{"name": "add", "parameters": {"a": 1, "a": 2}}', "twice, and nobody knows"),
        ("mistral", '[TOOL_CALLS] [{"name": "add"}]', "it has no 'arguments'"),
        ("mistral", '[TOOL_CALLS] [{"name": "add", "parameters": {"a": 1}}]', "it has no 'arguments'"),
        ("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1, "a": 2}', "twice, and nobody knows"),
        (
            "qwen3-coder",
            "<tool_call><function=add><parameter=a>1</parameter><parameter=a>2</parameter></function></tool_call>",
            "'a' twice",
        ),
    ],
)
def test_arguments_that_the_model_did_not_write_as_such_are_not_made_up(name: str, text: str, note: str) -> None:
    parsed = parser_named(name, "").read(text, KNOWN)

    assert (parsed.content, parsed.calls, len(parsed.notes)) == (text, (), 1)
    assert note in parsed.notes[0]


MARKS = {
    "hermes": "<tool_call>{}</tool_call>",
    "llama3": "; {}",
    "mistral": "[TOOL_CALLS]add[ARGS]{}",
    "deepseek": f"<{BAR}tool▁call▁end{BAR}><{BAR}tool▁calls▁end{BAR}><{BAR}tool▁call▁begin{BAR}>",
    "harmony": "<|end|><|call|><|start|>assistant<|message|>",
}


@pytest.mark.parametrize("name", MARKS)
def test_marks_within_an_argument_are_its_text(name: str) -> None:
    text = CALLS[name].replace("Rom ü", MARKS[name])

    parsed = parser_named(name, "").read(text, KNOWN)

    assert (parsed.content.strip(), parsed.notes) == ("", ())
    assert [json.loads(call.arguments) for call in parsed.calls] == [{"city": MARKS[name]}]


def test_marks_within_an_argument_of_a_named_call_are_its_text() -> None:
    text = '[TOOL_CALLS]weather[ARGS]{"city": "a [TOOL_CALLS] b"}[TOOL_CALLS]add{}'

    parsed = parser_named("mistral", "").read(text, KNOWN)

    assert parsed.calls == (FoundCall("weather", '{"city": "a [TOOL_CALLS] b"}'), FoundCall("add", "{}"))


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("hermes", '<tool_call>{"name": "add", "arguments": {}} and</tool_call>', "behind its JSON"),
        ("mistral", '[TOOL_CALLS] [{"name": "add", "arguments": {}}] and', "behind its JSON"),
        ("mistral", "[TOOL_CALLS]add[ARGS]{} and", "behind its JSON"),
        ("deepseek", V31.replace("}", "} and"), "behind its JSON"),
        ("harmony", "<|start|>to=functions.add<|message|>{} and", "behind its JSON"),
        ("qwen3-coder", CODER.replace("Rom", "</parameter>"), "more in it than parameters, of which each ends at </p"),
        ("qwen3-coder", CODER.replace("</function>", ""), "no end"),
    ],
)
def test_the_note_of_a_call_that_stays_text_is_true(name: str, text: str, note: str) -> None:
    parsed = parser_named(name, "").read(text, KNOWN)

    assert parsed.calls == ()
    assert [note in one for one in parsed.notes] == [True]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen3-coder", "<tool_call>\n<function=add>\n" * 8000),
        ("qwen3-coder", "<tool_call><function=add>" + "<parameter=a>" * 16_000 + "</function>"),
        ("qwen3-coder", "<tool_call><function=add>" + " " * 200_000 + "</function>"),
        ("qwen3-coder", "<tool_call><function=add></function></tool_call>" * 4000),
        ("hermes", '<tool_call>{"a":' * 12_000),
        ("hermes", '<tool_call>{"name": "no", "arguments": {}}</tool_call>' * 4000),
        ("llama3", '{"name": "add", "parameters": {}};' * 6000),
        ("mistral", "[TOOL_CALLS]add{}" * 12_000),
        ("deepseek", V31 * 2000),
        ("harmony", "<|start|>to=functions.add<|message|>{" * 5000),
        ("harmony", "<|start|>" * 20_000 + "<|message|>"),
    ],
    ids=range(11),
)
def test_a_reply_that_repeats_itself_is_read_at_once(name: str, text: str) -> None:
    """The event loop reads it: what took a time that grows with the square of the length held it for seconds."""
    begun = time.process_time()
    parsed = parser_named(name, "").read(text, KNOWN)
    took_s = time.process_time() - begun

    assert took_s < 0.5
    assert len(parsed.calls) + len(parsed.notes) <= MOST_CALLS + 1


def test_a_wrong_call_beside_a_right_one_stays_text() -> None:
    wrong = "<tool_call>{}</tool_call>"

    parsed = parser_named("hermes", "").read(wrong + CALLS["hermes"], KNOWN)

    assert parsed == (wrong, (ROME,), ("a call without a name stays text",), None)


def test_values_of_qwen_coder_are_what_the_schema_says() -> None:
    body = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n"
        for key, value in (("city", "12"), ("days", "3"), ("more", '{"a": [true]}'), ("else", "so\nso"))
    )

    parsed = parser_named("qwen3-coder", "").read(
        f"<tool_call>\n<function=weather>\n{body}</function>\n</tool_call>", KNOWN
    )

    assert json.loads(parsed.calls[0].arguments) == {"city": "12", "days": 3, "more": {"a": [True]}, "else": "so\nso"}


def test_channels_of_gpt_oss_are_told_apart() -> None:
    text = (
        "<|channel|>analysis<|message|>What is asked?<|end|><|start|>assistant<|channel|>final<|message|>I look."
        f"<|end|><|start|>assistant{CALLS['harmony']}"
    )

    parsed = parser_named("harmony", "").read(text, KNOWN)

    assert parsed == ("I look.", (ROME,), (), "What is asked?")


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("qwen2.5", "hermes"), ("qwen3", "hermes"), ("llama3.1", "llama3"), ("mistral", "mistral"), ("chatml", "none"),
        ("gpt-oss", "harmony"), ("gemma3", "none"), ("deepseek-r1", "deepseek"), ("phi3", "none"),
    ],
)  # fmt: skip
def test_the_template_shows_how_calls_are_written(family: str, name: str) -> None:
    source = (TEMPLATES / f"{FAMILIES[family].template}.jinja").read_text()

    assert parser_named("auto", source).name == name


def test_a_parser_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="there are auto, none, hermes"):
        parser_named("hermes2", "")


@pytest.mark.parametrize("name", NAMES)
@given(pieces=st.lists(st.sampled_from([*CALLS.values(), CODER, V31, "{", "}", '"', "]", "\n", "x", "<|message|>"])))
@settings(max_examples=25, deadline=None)
def test_no_reply_raises(name: str, pieces: list[str]) -> None:
    parsed = parser_named(name, "").read("".join(piece[: len(piece) - i % 3] for i, piece in enumerate(pieces)), KNOWN)

    assert all(isinstance(json.loads(call.arguments), dict) and call.name in KNOWN for call in parsed.calls)
